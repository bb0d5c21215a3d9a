"""What every plot is made of: dots and bars with intervals, and the way to inline SVG.

Text is in the page's own font and colour, so that both themes can be read. A plot says what it is
(role and title), and so does each of its dots.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from loci.report.families import COLORS
from loci.study.estimates import middle

# Stands for the colour of the page's text, and is replaced in the finished SVG.
INK = "#123456"
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "loci", "font.size": 10.0, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titlecolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "legend.frameon": False,
}
Score = Mapping[str, float]


def ends(score: Score, scale: float = 1) -> tuple[float, float, float]:
    """Middle, low and high end of an estimate in JSON."""
    return scale * (middle(score) or 0.0), scale * score["lo"], scale * score["hi"]


def bar(
    axis: Axes, x: float, score: Score, fill: str, alpha: float, scale: float = 1,
    width: float = 0.38,
) -> None:
    """A bar at `x` with its interval."""
    mean, lo, hi = ends(score, scale)
    axis.bar(x, mean, width, color=fill, alpha=alpha, edgecolor=fill)
    # Without a body, a bar at zero would not be seen.
    axis.plot([x - width / 2, x + width / 2], [mean, mean], color=fill, lw=1.5)
    axis.plot([x, x], [lo, hi], color=INK, lw=1.1, solid_capstyle="butt")


def dot(
    axis: Axes, x: float, score: Score, fill: str, full: bool = True, scale: float = 1,
    title: str | None = None,
) -> None:
    """A dot at `x`, full or hollow, with its interval; the browser shows its title."""
    mean, lo, hi = ends(score, scale)
    axis.plot([x, x], [lo, hi], color=fill, lw=1.4, alpha=0.7, solid_capstyle="butt")
    (drawn,) = axis.plot(x, mean, "o", ms=7, mfc=fill if full else "none", mec=fill, mew=1.4)
    if title is not None:
        drawn.set_gid(f"title:{title}")


def chance(axis: Axes, height: float) -> None:
    """What guessing gives."""
    axis.axhline(height, color=INK, lw=0.8, ls=":", alpha=0.7)
    axis.text(
        1.005, height, "chance", ha="left", va="center", size=8.5,
        transform=axis.get_yaxis_transform(),
    )


def label(axis: Axes, dots: Sequence[tuple[str, float, float]]) -> None:
    """The names beside those of the dots (name, x, y) that have room for one: a label stands on no
    dot and on no other label. The others are named by their titles."""
    scale = 72 / axis.figure.dpi
    places = {name: axis.transData.transform((x, y)) * scale for name, x, y in dots}
    begin, end = (axis.transAxes.transform((x, 0))[0] * scale for x in (0, 1))
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places.values()]
    for name, (x, y) in sorted(places.items(), key=lambda item: -item[1][1]):
        wide = 5.2 * len(name)
        for left, low in ((x + 7, y - 4), (x - 7 - wide, y - 4), (x - wide / 2, y + 6)):
            box = (left, low, left + wide, low + 9)
            free = not any(
                box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken
            )
            if free and begin < box[0] and box[2] < end + 30:
                taken.append(box)
                place = axis.transData.inverted().transform(np.array([left, low]) / scale)
                axis.text(*place, name, size=8.5)
                break


def legend(figure: Figure, families: Sequence[str]) -> None:
    """The families and their colours, below a plot."""
    marks = [Line2D([], [], marker="o", ls="", color=COLORS[name]) for name in families]
    # An entry takes up to 1.5 inches.
    across = min(len(families), 4, max(1, int(figure.get_figwidth() / 1.5)))
    figure.legend(marks, families, loc="outside lower center", ncols=across)


def svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element that takes the page's text colour and width."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor")
    text = re.sub(r"(font-family:|font: [\d.]+px) [^;\"]+", r"\1 system-ui, sans-serif", text)
    text = re.sub(r'<g id="title:([^"]*)">', r"<g><title>\1</title>", text)
    # The page decides the size, up to the one at which letters have their own: 4/3 pixels a point.
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    end, style = text.index(">"), f'style="max-width:{96 * figure.get_figwidth():.0f}px"'
    return f'{text[:end]} {style} role="img"><title>{escape(title)}</title>{text[end + 1 :]}'


def wide(drawn: str) -> bool:
    """Whether a plot takes the page's whole width."""
    return float(drawn.partition('viewBox="0 0 ')[2].split()[0]) > 500


def standalone(drawn: str) -> str:
    """A plot as a file of its own, readable on light and on dark pages."""
    style = (
        "<style>svg{color:#1c2430}"
        "@media (prefers-color-scheme:dark){svg{color:#dfe5ec}}</style>"
    )
    end = drawn.index(">") + 1
    return drawn[:end] + style + drawn[end:]
