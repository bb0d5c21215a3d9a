"""The plot of `loci bench`: milliseconds and bytes against the frames seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator

from loci.report.plots import figure_of
from loci.report.svg import STYLE, ends, svg

# What `cost` draws of the results of `loci bench`, and how it calls it.
ACTS = {
    "observe": "observe a frame, ms", "step": "one step of the actions, ms",
    "write": "write a frame, ms", "chunk": "generate a chunk, ms",
}


def cost(results: Mapping[str, Any]) -> str:
    """The plot of `loci bench`: milliseconds of each act and bytes held against the frames seen, a
    line a row. What was not measured has no milliseconds; its bytes are hollow."""
    rows, protocol = results["rows"], results["protocol"]
    horizon, acts = protocol.get("horizon"), [a for a in ACTS if a in protocol["acts"]]
    with mpl.rc_context(STYLE):
        figure, axes = figure_of(len(acts) + 1, 3.6, 3.4, share=False)
        for number, (name, by_frames) in enumerate(rows.items()):
            fill = f"C{number % 10}"
            frames = {int(n): costs for n, costs in by_frames.items()}
            timed = {n: costs for n, costs in frames.items() if "left_out" not in costs}
            for axis, act in zip(axes[:-1], acts, strict=True):
                times = np.array([ends(c[f"{act}_ms"]) for c in timed.values()]).reshape(-1, 3)
                axis.plot(list(timed), times[:, 0], "o-", ms=3, lw=1.4, color=fill)
                axis.fill_between(
                    list(timed), times[:, 1], times[:, 2], color=fill, alpha=0.18, lw=0
                )
            held = [costs["bytes"] for costs in frames.values()]
            axes[-1].plot(list(frames), held, "-", lw=1.4, color=fill, label=name)
            for n, size in zip(frames, held, strict=True):
                axes[-1].plot(n, size, "o", ms=3 if n in timed else 5, color=fill,
                              mfc=fill if n in timed else "none")
        counts = sorted({int(n) for by_frames in rows.values() for n in by_frames})
        texts = [f"{n}\n{n * horizon:,}" if horizon else str(n) for n in counts]
        for axis, heading in zip(axes, [*(ACTS[act] for act in acts), "bytes held"], strict=True):
            axis.set(xscale="log", yscale="log", title=heading)
            axis.set_xlabel("latent frames, and control steps" if horizon else "latent frames")
            axis.set_xticks(counts, texts)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(EngFormatter(sep=""))
            axis.minorticks_off()
        figure.legend(loc="outside right center")
        return svg(figure, "What memory costs")
