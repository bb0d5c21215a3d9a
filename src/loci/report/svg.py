"""What every plot is made of: dots and bars with intervals, labels, and the way to inline SVG.

Text is in the page's own font and colour, so that both themes can be read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stands for the colour of the page's text, and is replaced in the finished SVG.
INK = "#123456"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loci",
    "font.size": 10.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def bar(
    axis: Axes, x: float, score: Mapping[str, float], fill: str, alpha: float, scale: float = 1,
    width: float = 0.38,
) -> None:
    """A bar at `x` with its interval."""
    mean, lo, hi = (scale * score[k] for k in ("mean", "lo", "hi"))
    axis.bar(x, mean, width, color=fill, alpha=alpha, edgecolor=fill)
    # Without a body, a bar at zero would not be seen.
    axis.plot([x - width / 2, x + width / 2], [mean, mean], color=fill, lw=1.5)
    axis.plot([x, x], [lo, hi], color=INK, lw=1.1, solid_capstyle="butt")


def dot(
    axis: Axes, x: float, score: Mapping[str, float], fill: str, full: bool, scale: float = 1,
    label: str | None = None,
) -> None:
    """A dot at `x`, full or hollow, with its interval."""
    mean, lo, hi = (scale * score[k] for k in ("mean", "lo", "hi"))
    axis.plot([x, x], [lo, hi], color=fill, lw=1.6, solid_capstyle="butt")
    axis.plot(x, mean, "o", ms=7, mfc=fill if full else "none", mec=fill, mew=1.6, label=label)


def chance(axis: Axes, height: float) -> None:
    """What guessing gives."""
    axis.axhline(height, color=INK, lw=0.8, ls=":", alpha=0.7)
    axis.text(
        1.005, height, "chance", ha="left", va="center", size=8.5,
        transform=axis.get_yaxis_transform(),
    )


def label(axis: Axes, dots: Sequence[tuple[str, float, float]]) -> None:
    """The names beside their dots, those of dots that lie on each other together; a label that
    would stand on another one, or below the plot, moves up or down and is tied to its dot by a
    line."""
    groups: dict[tuple[int, int], list[tuple[str, float, float]]] = {}
    for name, x, y in dots:
        left, low = axis.transData.transform((x, y)) * 72 / axis.figure.dpi
        groups.setdefault((round(left / 6), round(low / 4)), []).append((name, left, low))
    ground = axis.transAxes.transform((0, 0))[1] * 72 / axis.figure.dpi
    # Left, right, middle and height of each label so far, in points.
    taken: list[tuple[float, float, float, float]] = []
    for members in sorted(groups.values(), key=lambda group: group[0][1]):
        names = [name for name, _, _ in members]
        _, left, low = members[0]
        lines = [", ".join(names[i : i + 3]) for i in range(0, len(names), 3)]
        right, tall = left + 10 + 4.4 * max(map(len, lines)), 9.5 * len(lines)
        shifts = sorted(range(-120, 121, 5), key=abs)
        clear = (
            shift for shift in shifts
            if low + shift - tall / 2 >= ground
            and not any(
                left + 8 < end and begin < right and abs(low + shift - middle) < (tall + high) / 2
                for begin, end, middle, high in taken
            )
        )
        shift = next(clear, 0)
        taken.append((left + 8, right, low + shift, tall))
        arrow = {"arrowstyle": "-", "lw": 0.4, "color": INK, "alpha": 0.6} if shift else None
        place = axis.transData.inverted().transform(np.array([left, low]) * axis.figure.dpi / 72)
        axis.annotate(
            "\n".join(lines), place, (9, shift), textcoords="offset points", size=8, va="center",
            arrowprops=arrow,
        )


def width(names: Sequence[str]) -> float:
    """Of a plot with a place for each row."""
    return max(5.2, 1.2 + 0.34 * len(names))


def name_places(axis: Axes, names: Sequence[str]) -> None:
    """The rows below their places, 0, 1, 2, ..."""
    few = len(names) <= 5
    axis.set_xticks(np.arange(len(names)), names, rotation=0 if few else 90)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.tick_params(axis="x", length=0)


def svg(figure: Figure) -> str:
    """The figure as an <svg> element that takes the page's text colour and width."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor")
    text = re.sub(r"(font-family:|font: [\d.]+px) [^;\"]+", r"\1 system-ui, sans-serif", text)
    # The page decides the size: only the view box keeps the shape.
    return re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)


def standalone(drawn: str) -> str:
    """A plot as a file of its own, readable on light and on dark pages."""
    style = (
        "<style>svg{color:#1c2430}"
        "@media (prefers-color-scheme:dark){svg{color:#dfe5ec}}</style>"
    )
    end = drawn.index(">", drawn.index("<svg")) + 1
    return drawn[:end] + style + drawn[end:]
