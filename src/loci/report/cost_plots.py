"""What memory costs against the frames written: the plot of `loci bench`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from loci.report.plots import color
from loci.report.svg import STYLE, svg

# What `cost` draws of the results of `loci bench`, and how it calls it.
ACTS = {
    "observe": "observe a frame, ms", "step": "one step of the actions, ms",
    "write": "write a frame, ms", "chunk": "generate a chunk, ms",
}


def cost(results: Mapping[str, Any]) -> str:
    """Milliseconds of each act and bytes held against the frames written, a line a row, of the
    results of `loci bench`. What was not measured has no milliseconds; its bytes are hollow."""
    rows, protocol = results["rows"], results["protocol"]
    names, horizon = list(rows), protocol.get("horizon")
    acts = [act for act in ACTS if act in protocol["acts"]]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * (len(acts) + 1), 3.4), layout="constrained")
        axes = figure.subplots(1, len(acts) + 1)
        for name in names:
            fill = color(name, names)
            frames = {int(n): costs for n, costs in rows[name].items()}
            for axis, act in zip(axes[:-1], acts, strict=True):
                points = [(n, c[f"{act}_ms"]) for n, c in frames.items() if "left_out" not in c]
                if not points:
                    continue
                places = [n for n, _ in points]
                axis.plot(places, [t["median"] for _, t in points], "o-", ms=3, lw=1.4, color=fill)
                axis.fill_between(
                    places, [t["lo"] for _, t in points], [t["hi"] for _, t in points],
                    color=fill, alpha=0.18, lw=0,
                )
            held = [costs["bytes"] for costs in frames.values()]
            axes[-1].plot(list(frames), held, "-", lw=1.4, color=fill, label=name)
            for (n, costs), size in zip(frames.items(), held, strict=True):
                hollow = "left_out" in costs
                axes[-1].plot(n, size, "o", ms=5 if hollow else 3, color=fill,
                              mfc="none" if hollow else fill)
        for axis, title in zip(axes, [*(ACTS[act] for act in acts), "bytes held"], strict=True):
            axis.set(xscale="log", yscale="log", title=title, xlabel="latent frames")
            counts = sorted({int(n) for lengths in rows.values() for n in lengths})
            texts = [str(n) for n in counts]
            if horizon:
                axis.set_xlabel("latent frames, and control steps")
                texts = [f"{n}\n{n * horizon:,}" for n in counts]
            axis.set_xticks(counts, texts)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(EngFormatter(sep=""))
            axis.minorticks_off()
        figure.legend(loc="outside right center")
        return svg(figure)
