"""The plots of the rooms' studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from loci.report.svg import INK, STYLE, bar, chance, dot, label, name_places, svg, width
from loci.study.rooms.rollouts import MEMORIES

Rows = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]

PALETTE = {
    "none": "#8b95a1",
    "context-1": "#7fb3e6",
    "context-5": "#4a8fd4",
    "context-20": "#2f6fc0",
    "hybrid": "#e0803a",
}
SPARE = (
    "#3aa17e", "#b565a7", "#c9a227", "#d1495b", "#6b7fd7", "#5b8c5a", "#8c6d46", "#4fb0c6",
    "#e377a8", "#9aa83a", "#a05195", "#f0895e",
)
IDENTITY_CHANCE = 1 / 8
# Of small plots, beside each other.
COLUMNS = 7


def color(row: str, rows: Sequence[str]) -> str:
    """A row's colour: the same in every plot."""
    unknown = [r for r in rows if r not in PALETTE]
    return PALETTE[row] if row in PALETTE else SPARE[unknown.index(row) % len(SPARE)]


def identity(rows: Rows, names: Sequence[str]) -> str:
    """Identity of the first frame's objects and of later ones, held-out and open-domain rooms."""
    branches = [
        (b, t) for b, t in (("recall", "held-out rooms"), ("open-recall", "open-domain rooms"))
        if any(b in rows[n] for n in names)
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(0.9 * width(names) * len(branches), 3.1), layout="constrained"
        )
        axes = figure.subplots(1, len(branches), sharey=True, squeeze=False)[0]
        for axis, (branch, title) in zip(axes, branches, strict=True):
            for offset, group, alpha in ((-0.2, "first", 0.45), (0.2, "later", 1.0)):
                for place, name in enumerate(names):
                    score = rows[name].get(branch, {}).get(f"identity_{group}")
                    if score:
                        bar(axis, place + offset, score, color(name, names), alpha, 100)
            chance(axis, 100 * IDENTITY_CHANCE)
            name_places(axis, names)
            axis.set(title=title, ylim=(0, 104))
        axes[0].set_ylabel("identity, % right")
        return svg(figure)


def pixels(rows: Rows, names: Sequence[str], ceilings: Sequence[str], floors: Sequence[str]) -> str:
    """PSNR on pixels seen before (full) and newly revealed (hollow), with floor and ceiling."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width(names), 3.1), layout="constrained")
        axis = figure.subplots()
        for place, name in enumerate(names):
            scores = rows[name].get("recall", {})
            for offset, metric, full in ((-0.12, "psnr_seen", 1), (0.12, "psnr_revealed", 0)):
                if metric in scores:
                    dot(axis, place + offset, scores[metric], color(name, names), bool(full))
        for name, style in [(c, "--") for c in ceilings[:1]] + [(f, ":") for f in floors[:1]]:
            score = rows.get(name, {}).get("recall", {}).get("psnr_seen")
            if score and score["mean"] < 59:
                axis.axhline(score["mean"], color=INK, lw=0.8, ls=style, alpha=0.6)
                axis.text(len(names) - 0.45, score["mean"], name, ha="right", va="bottom", size=8.5)
        name_places(axis, names)
        axis.set_ylabel("PSNR, dB")
        return svg(figure)


def _height(names: Sequence[str]) -> float:
    """Of a plot with a label for each row."""
    return 3.6 + 0.07 * max(0, len(names) - 8)


def memory_size(
    rows: Rows, names: Sequence[str], cost: Mapping[str, Mapping[str, float]]
) -> str:
    """Identity of objects seen later against the bytes a row holds after 40 frames."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, _height(names)), layout="constrained")
        axis = figure.subplots()
        dots = []
        for name in names:
            score = rows[name].get("recall", {}).get("identity_later")
            if score is not None and name in cost:
                dot(axis, cost[name]["bytes"], score, color(name, names), True, 100)
                dots.append((name, float(cost[name]["bytes"]), 100 * score["mean"]))
        chance(axis, 100 * IDENTITY_CHANCE)
        axis.set(
            xscale="log", ylim=(0, 106), ylabel="identity of later objects, %",
            xlabel="bytes held at 40 frames",
        )
        held = [place for _, place, _ in dots]
        axis.set_xlim(min(held) / 1.5, max(held) * 4)
        axis.minorticks_off()
        label(axis, dots)
        return svg(figure)


def written_and_read(
    probe: Mapping[str, Mapping[str, Mapping[str, float]]], names: Sequence[str],
    cost: Mapping[str, Mapping[str, float]],
) -> str:
    """What a linear probe finds in the state against what generation brings back; the area of a
    dot grows with the bytes held."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, _height(names) + 0.6), layout="constrained")
        axis = figure.subplots()
        dots = []
        for name in names:
            written, read = (probe[name].get(m) for m in ("which_later", "identity_later"))
            if written and read:
                x, y = 100 * written["mean"], 100 * read["mean"]
                area = 25 * np.log10(max(cost[name]["bytes"], 10)) ** 1.5
                axis.plot([100 * written["lo"], 100 * written["hi"]], [y, y], lw=0.8, color=INK)
                axis.plot([x, x], [100 * read["lo"], 100 * read["hi"]], lw=0.8, color=INK)
                axis.scatter([x], [y], s=area, color=color(name, names), alpha=0.8, zorder=3)
                dots.append((name, x, y))
        for name in probe:
            if name not in names and "which_later" in probe[name]:
                x = 100 * probe[name]["which_later"]["mean"]
                axis.axvline(x, color=INK, lw=0.8, ls=":", alpha=0.7)
                axis.text(x, 106, name, ha="center", va="bottom", size=8.5)
        axis.set(
            xlim=(0, 104), ylim=(0, 104), xlabel="written: a probe names the object, %",
            ylabel="read: generation shows it, %",
        )
        label(axis, dots)
        return svg(figure)


def kept(retention: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
         names: Sequence[str], axis_name: str, unit: str) -> str:
    """Identity of returning objects in bins of absence or of distance, a small plot a row."""
    curves = {n: retention[n][axis_name] for n in names if n in retention}
    ends = sorted({point["to"] for curve in curves.values() for point in curve})
    texts = [f"{begin:g}–{end:g}" for begin, end in pairwise(ends)]
    texts = [f"≤ {ends[0]:g}" if ends[0] else "0", *texts] if ends else []
    across = min(max(len(curves), 1), COLUMNS)
    down = max(1, -(-len(curves) // across))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 1.35 * across, 0.6 + 1.25 * down), layout="constrained")
        axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for axis, (name, curve) in zip(axes[: len(curves)], curves.items(), strict=True):
            for point in curve:
                dot(axis, ends.index(point["to"]), point, color(name, names), True, 100)
            axis.plot(
                [ends.index(point["to"]) for point in curve],
                [100 * point["mean"] for point in curve], lw=1.2, color=color(name, names),
            )
            axis.axhline(100 * IDENTITY_CHANCE, color=INK, lw=0.8, ls=":", alpha=0.7)
            axis.set_title(name, size=8.5)
            axis.set_xticks(range(len(ends)), texts, rotation=90, size=7.5)
            axis.set(ylim=(-8, 112), yticks=(0, 50, 100), xlim=(-0.5, len(ends) - 0.5))
        for axis in axes[len(curves) :]:
            axis.set_visible(False)
        # The plot above an empty place is the last of its column.
        for axis in axes[max(0, len(curves) - across) : len(curves)]:
            axis.tick_params(labelbottom=True)
        figure.supxlabel(unit, size=9)
        figure.supylabel("identity, %", size=9)
        return svg(figure)


def causal(rows: Rows, names: Sequence[str]) -> str:
    """Identity of later objects with each memory: true, empty, shuffled, wrong-room."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width(names), 3.1), layout="constrained")
        axis = figure.subplots()
        for number, memory in enumerate(MEMORIES):
            offset, alpha = 0.21 * (number - 1.5), 1 - 0.25 * number
            for place, name in enumerate(names):
                score = rows[name].get("causal", {}).get(f"identity_later_{memory}")
                if score:
                    bar(axis, place + offset, score, color(name, names), alpha, 100, 0.19)
        chance(axis, 100 * IDENTITY_CHANCE)
        name_places(axis, names)
        axis.set(ylabel="identity of later objects, %", ylim=(0, 104))
        return svg(figure)


def loop(rows: Rows, names: Sequence[str]) -> str:
    """Mirrored pairs: how alike they are, and how much more alike than frames of other poses."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width(names), 3.1), layout="constrained")
        axis = figure.subplots()
        for place, name in enumerate(names):
            scores = rows[name].get("loop", {})
            for offset, metric, full in ((-0.12, "pair_psnr", 1), (0.12, "pair_margin", 0)):
                if metric in scores:
                    dot(axis, place + offset, scores[metric], color(name, names), bool(full))
        name_places(axis, names)
        axis.set_ylabel("dB")
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        return svg(figure)
