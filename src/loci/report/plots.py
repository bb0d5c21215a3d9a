"""The plots of the reports: rows coloured by family, names where there is room for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from loci.report.families import COLORS, present
from loci.report.svg import INK, STYLE, Score, bar, chance, dot, ends, label, legend, svg

Families = Mapping[str, str]
"""row -> family, in the order of a plot."""

# Lines of the log over which a learning curve is averaged.
SMOOTH = 5


@dataclass(frozen=True)
class Panel:
    """One of the plots of a figure: series -> row -> score, later series paler (bars) or hollow
    (dots); in a scatter, `x` says where a row stands, maybe with a line to a second place."""

    title: str
    series: Sequence[Mapping[str, Score]]
    chance: float | None = None
    x: Mapping[str, Sequence[float]] | None = None


def figure_of(
    panels: int, wide: float, high: float, share: bool = True, stacked: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of panels beside each other, or stacked."""
    down, across = (panels, 1) if stacked else (1, panels)
    figure = Figure(figsize=(wide * across, high * down), layout="constrained")
    return figure, list(figure.subplots(down, across, sharey=share, squeeze=False).ravel())


def per_row(
    title: str, panels: Sequence[Panel], rows: Families, ylabel: str, scale: float = 1,
    dots: bool = False, lines: Mapping[str, float] | None = None,
) -> str:
    """A place for each row, with bars or dots. lines: heights that are marked, by name."""
    names = list(rows)
    with mpl.rc_context(STYLE):
        wide = max(4.2, 1.2 + 0.3 * len(names))
        figure, axes = figure_of(len(panels), wide, 3.3, stacked=wide > 6)
        for axis, panel in zip(axes, panels, strict=True):
            count = len(panel.series)
            for number, scores in enumerate(panel.series):
                offset = (0.28 if dots else 0.8 / count) * (number - (count - 1) / 2)
                for place, name in enumerate(names):
                    if (score := scores.get(name)) is None:
                        continue
                    fill = COLORS[rows[name]]
                    if dots:
                        dot(axis, place + offset, score, fill, number == 0, scale, name)
                    else:
                        alpha = 1 - number * 0.75 / count
                        bar(axis, place + offset, score, fill, alpha, scale, 0.75 / count)
            if panel.chance is not None:
                chance(axis, scale * panel.chance)
            for name, height in (lines or {}).items():
                axis.axhline(height, color=INK, lw=0.8, ls="--", alpha=0.6)
                axis.text(len(names) - 0.45, height, name, ha="right", va="bottom", size=8.5)
            axis.set_xticks(range(len(names)), names, rotation=0 if len(names) <= 5 else 90)
            axis.set_xlim(-0.6, len(names) - 0.4)
            axis.tick_params(axis="x", length=0)
            axis.set_title(panel.title)
        if scale == 100:
            axes[0].set_ylim(0, 104)
        axes[0].set_ylabel(ylabel)
        legend(figure, present(rows))
        return svg(figure, title)


def scatter(
    title: str, panels: Sequence[Panel], rows: Families, xlabel: str, ylabel: str,
    log: bool = True, lines: Mapping[str, float] | None = None, share: bool = True,
) -> str:
    """Dots of shares in per cent, or of anything else as it is. lines: places across that are
    marked, by name."""
    scale, unit = (100, "%") if share else (1, ylabel.rpartition(", ")[2])
    with mpl.rc_context(STYLE):
        wide = 6.4 if len(panels) == 1 else 3.8
        figure, axes = figure_of(len(panels), wide, 3.8)
        for axis, panel in zip(axes, panels, strict=True):
            assert panel.x is not None
            dots = []
            for name, score in panel.series[0].items():
                begin, *end = panel.x[name]
                height = ends(score, scale)[0]
                fill = COLORS[rows[name]]
                if end:
                    axis.plot([begin, *end], [height] * 2, color=fill, lw=1, alpha=0.5)
                said = f"{name}: {height:.{0 if share else 1}f} {unit}"
                dot(axis, begin, score, fill, True, scale, said)
                dots.append((name, begin, height))
            if panel.chance is not None:
                chance(axis, 100 * panel.chance)
            for name, x in (lines or {}).items():
                axis.axvline(x, color=INK, lw=0.8, ls=":", alpha=0.7)
                axis.text(x, 106, name, ha="center", va="bottom", size=8.5)
            axis.set(xlabel=xlabel, title=panel.title)
            if share:
                axis.set_ylim(-2, 106)
            if log:
                held = [place for places in panel.x.values() for place in places]
                axis.set(xscale="log", xlim=(min(held) / 1.6, max(held) * 2.5))
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=9))
                axis.xaxis.set_major_formatter(EngFormatter("B", sep=" "))
                axis.minorticks_off()
                axis.tick_params(axis="x", labelsize=8.5)
            else:
                axis.set_xlim(-2, 106)
            figure.draw_without_rendering()
            label(axis, dots)
        axes[0].set_ylabel(ylabel)
        legend(figure, present(rows))
        return svg(figure, title)


def retention(
    title: str, curves: Mapping[str, Sequence[Score]], rows: Families, unit: str, floor: float
) -> str:
    """Shares in bins, a small plot a row."""
    places = sorted({point["to"] for curve in curves.values() for point in curve})
    texts = [f"{begin:g}–{end:g}" for begin, end in pairwise(places)]
    texts = [f"≤ {places[0]:g}" if places[0] else "0", *texts] if places else []
    names = [name for name in rows if name in curves]
    across = min(max(len(names), 1), 7)
    down = max(1, -(-len(names) // across))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 1.35 * across, 0.6 + 1.25 * down), layout="constrained")
        axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for axis, name in zip(axes[: len(names)], names, strict=True):
            fill, x = COLORS[rows[name]], [places.index(p["to"]) for p in curves[name]]
            for place, point in zip(x, curves[name], strict=True):
                dot(axis, place, point, fill, True, 100, f"{name}, to {point['to']:g}")
            axis.plot(x, [100 * p["mean"] for p in curves[name]], lw=1.2, color=fill)
            axis.axhline(100 * floor, color=INK, lw=0.8, ls=":", alpha=0.7)
            axis.set_title(name, size=8.5)
            axis.set_xticks(range(len(places)), texts, rotation=90, size=7.5)
            axis.set(ylim=(-8, 112), yticks=(0, 50, 100), xlim=(-0.5, len(places) - 0.5))
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        # The plot above an empty place is the last of its column.
        for axis in axes[max(0, len(names) - across) : len(names)]:
            axis.tick_params(labelbottom=True)
        figure.supxlabel(unit, size=9)
        figure.supylabel("identity, %", size=9)
        return svg(figure, title)


def learning(
    title: str, curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], rows: Families
) -> str:
    """task -> row -> (step, loss) of each line of the log, averaged over a few of them."""
    with mpl.rc_context(STYLE):
        figure, axes = figure_of(len(curves), 3.8, 3.4, share=False)
        for axis, (task, by_row) in zip(axes, curves.items(), strict=True):
            for row, points in by_row.items():
                steps, losses = np.array(points, float).T
                width = min(SMOOTH, len(steps))
                mean = np.convolve(losses, np.full(width, 1 / width), "valid")
                (line,) = axis.plot(steps[width - 1 :], mean, lw=1.3, color=COLORS[rows[row]])
                line.set_gid(f"title:{row}")
            axis.set(yscale="log", xlabel="steps", title=task)
        axes[0].set_ylabel("loss")
        legend(figure, present(rows))
        return svg(figure, title)
