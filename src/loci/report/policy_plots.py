"""The plots of the study of policies: a panel for each task, rows in their own colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from loci.report.svg import STYLE, bar, chance, dot, name_places, svg

PALETTE = {
    "window": "#8b95a1", "full": "#2f6fc0", "hybrid": "#e0803a", "no-anchors": "#c9a227",
    "no-gists": "#d1495b", "rnn": "#3aa17e", "ttt": "#b565a7",
}
OTHER = "#6b7fd7"
# Lines of the log over which a learning curve is averaged.
SMOOTH = 5
Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""task -> row -> (step, loss) of each line of the log."""


def color(row: str) -> str:
    """A row's colour: the same in every plot, whichever rows there are."""
    return PALETTE.get(row, OTHER)


def held(results: Mapping[str, Any]) -> str:
    """Success of every row with the fact held as in training (full) and longer (pale)."""
    figure, axes = _panels(results, 3.2)
    with mpl.rc_context(STYLE):
        for axis, (task, rows) in zip(axes, results["success"].items(), strict=True):
            holds = [str(hold) for hold in results["protocol"]["holds"]]
            for place, (row, by_hold) in enumerate(rows.items()):
                for number, hold in enumerate(holds):
                    score = _score(by_hold[hold]["success"])
                    x = place + 0.4 * (number - (len(holds) - 1) / 2)
                    bar(axis, x, score, color(row), 0.45 if number else 1.0, 100)
            chance(axis, 100 * results["protocol"]["tasks"][task]["chance"])
            name_places(axis, list(rows))
            axis.tick_params(axis="x", labelrotation=90)
        return _finished(figure, axes, "success, %")


def size(results: Mapping[str, Any]) -> str:
    """Success against the bytes held early in an episode; a line goes on to those held late."""
    figure, axes = _panels(results, 3.4)
    with mpl.rc_context(STYLE):
        for axis, (task, rows) in zip(axes, results["success"].items(), strict=True):
            first, ends = str(results["protocol"]["holds"][0]), []
            for row, by_hold in rows.items():
                entry = results["protocol"]["entries"][task][row]["held"].values()
                begin, end = (costs["bytes"] / 1000 for costs in entry)
                score = _score(by_hold[first]["success"])
                height = 100 * score["mean"]
                axis.plot([begin, end], [height, height], color=color(row), lw=1, alpha=0.6)
                axis.plot(end, height, "|", color=color(row), ms=7)
                dot(axis, begin, score, color(row), True, 100)
                ends += [begin, end]
            axis.set(xscale="log", xlabel="kB held")
            axis.set_xlim(min(ends) / 1.4, max(ends) * 2.5)
            axis.minorticks_off()
            chance(axis, 100 * results["protocol"]["tasks"][task]["chance"])
        _legend(figure, results)
        return _finished(figure, axes, "success, %")


def learning(results: Mapping[str, Any], curves: Curves) -> str:
    """The training loss of every row against steps, averaged over a few lines of the log."""
    figure, axes = _panels(results, 3.4, share=False)
    with mpl.rc_context(STYLE):
        for axis, task in zip(axes, results["success"], strict=True):
            for row, points in curves.get(task, {}).items():
                steps, losses = np.array(points, float).T
                width = min(SMOOTH, len(steps))
                mean = np.convolve(losses, np.full(width, 1 / width), "valid")
                axis.plot(steps[width - 1 :], mean, lw=1.3, color=color(row))
            axis.set(yscale="log", xlabel="steps")
        _legend(figure, results)
        axes[0].set_ylabel("loss")
        return svg(figure)


def _panels(
    results: Mapping[str, Any], height: float, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A panel for each task, side by side."""
    tasks = list(results["success"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(5.2, 3.6 * len(tasks)), height), layout="constrained")
        axes = list(figure.subplots(1, len(tasks), sharey=share, squeeze=False)[0])
        for axis, task in zip(axes, tasks, strict=True):
            axis.set_title(task)
    return figure, axes


def _legend(figure: Figure, results: Mapping[str, Any]) -> None:
    """The rows and their colours, below all panels."""
    rows = list(results["protocol"]["rows"])
    lines = [Line2D([], [], marker="o", ls="-", color=color(row)) for row in rows]
    figure.legend(lines, rows, loc="outside lower center", ncols=len(rows))


def _finished(figure: Figure, axes: Sequence[Axes], ylabel: str) -> str:
    axes[0].set(ylabel=ylabel, ylim=(0, 106))
    return svg(figure)


def _score(rate: Mapping[str, Any]) -> dict[str, float]:
    return {"mean": rate["rate"], "lo": rate["lo"], "hi": rate["hi"]}


