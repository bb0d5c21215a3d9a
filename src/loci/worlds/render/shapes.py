"""Object shapes and colours, and which split each belongs to.

A shape is a list of parts in a frame of its own: z up, x and y level, fitting a cube of side 1
around the origin, its most telling side towards -y. Source: ours.
"""

from __future__ import annotations

import numpy as np

from loci.worlds.render.materials import Color

Part = tuple[str, tuple[float, float, float], tuple[float, float, float], np.ndarray]


def _turn(axis: str, degrees: float) -> np.ndarray:
    """Rotation by `degrees` about a local axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


LEVEL = np.eye(3)


def _box(x: float, y: float, z: float, at: tuple[float, float, float] = (0, 0, 0)) -> Part:
    return ("box", (x, y, z), at, LEVEL)


def _ball(radius: float, at: tuple[float, float, float] = (0, 0, 0)) -> Part:
    return ("sphere", (radius, 0, 0), at, LEVEL)


def _post(radius: float, half: float, at: tuple[float, float, float] = (0, 0, 0)) -> Part:
    return ("cylinder", (radius, half, 0), at, LEVEL)


def _rod(radius: float, half: float, tilt: float, at: tuple[float, float, float]) -> Part:
    return ("capsule", (radius, half, 0), at, _turn("y", tilt))


SHAPES: dict[str, tuple[Part, ...]] = {
    "sphere": (_ball(0.46),),
    "cube": (("box", (0.37, 0.37, 0.37), (0, 0, 0), _turn("z", 25)),),
    "pillar": (_post(0.2, 0.5),),
    "corner": (_box(0.14, 0.17, 0.5, (-0.36, 0, 0)), _box(0.5, 0.17, 0.15, (0, 0, -0.35))),
    "pill": (_rod(0.2, 0.3, 90, (0, 0, 0)),),
    "cross": (_box(0.5, 0.15, 0.16), _box(0.16, 0.15, 0.5)),
    "snowman": (_ball(0.31, (0, 0, -0.19)), _ball(0.21, (0, 0, 0.29))),
    "table": (
        _box(0.5, 0.3, 0.09, (0, 0, 0.3)),
        _box(0.09, 0.25, 0.35, (-0.38, 0, -0.12)),
        _box(0.09, 0.25, 0.35, (0.38, 0, -0.12)),
    ),
    "pyramid": (
        _box(0.5, 0.4, 0.16, (0, 0, -0.32)),
        _box(0.32, 0.28, 0.16, (0, 0, 0)),
        _box(0.15, 0.15, 0.16, (0, 0, 0.32)),
    ),
    "ring": tuple(
        _ball(0.14, (0.36 * np.cos(a), 0, 0.36 * np.sin(a)))
        for a in np.arange(10) * (2 * np.pi / 10)
    ),
    "dumbbell": (
        _ball(0.25, (-0.3, 0, 0)),
        _ball(0.25, (0.3, 0, 0)),
        _rod(0.09, 0.25, 90, (0, 0, 0)),
    ),
    "stairs": (
        _box(0.16, 0.3, 0.16, (-0.33, 0, -0.33)),
        _box(0.16, 0.3, 0.32, (0, 0, -0.17)),
        _box(0.16, 0.3, 0.5, (0.33, 0, 0)),
    ),
    "tee": (_box(0.5, 0.16, 0.14, (0, 0, -0.36)), _box(0.14, 0.16, 0.37, (0, 0, 0.13))),
    "wedge": (_rod(0.15, 0.42, 28, (-0.2, 0, 0)), _rod(0.15, 0.42, -28, (0.2, 0, 0))),
    "goblet": (
        _post(0.34, 0.05, (0, 0, -0.45)),
        _post(0.1, 0.22, (0, 0, -0.2)),
        _post(0.42, 0.25, (0, 0, 0.25)),
    ),
    "ladder": (
        _box(0.08, 0.12, 0.5, (-0.32, 0, 0)),
        _box(0.08, 0.12, 0.5, (0.32, 0, 0)),
        _box(0.32, 0.12, 0.09, (0, 0, -0.3)),
        _box(0.32, 0.12, 0.09, (0, 0, 0.25)),
    ),
}

COLORS: dict[str, Color] = {
    "red": (0.88, 0.10, 0.10),
    "orange": (1.00, 0.52, 0.05),
    "yellow": (1.00, 0.92, 0.10),
    "green": (0.08, 0.58, 0.14),
    "cyan": (0.15, 0.85, 0.95),
    "blue": (0.10, 0.20, 0.90),
    "purple": (0.50, 0.12, 0.70),
    "pink": (1.00, 0.45, 0.75),
    "white": (1.00, 1.00, 1.00),
    "black": (0.07, 0.07, 0.07),
    "brown": (0.46, 0.26, 0.08),
    "lime": (0.66, 1.00, 0.25),
    "teal": (0.00, 0.42, 0.42),
    "peach": (1.00, 0.74, 0.56),
    "maroon": (0.42, 0.00, 0.18),
    "lavender": (0.68, 0.64, 1.00),
}

# What the open-domain split shows occurs in no other split; train and held-out rooms share theirs.
_TRAIN_SHAPES = tuple(SHAPES)[:10]
_OPEN_SHAPES = tuple(SHAPES)[10:]
_TRAIN_COLORS = tuple(COLORS)[:10]
_OPEN_COLORS = tuple(COLORS)[10:]
SPLIT_SHAPES = {"train": _TRAIN_SHAPES, "heldout": _TRAIN_SHAPES, "open": _OPEN_SHAPES}
SPLIT_COLORS = {"train": _TRAIN_COLORS, "heldout": _TRAIN_COLORS, "open": _OPEN_COLORS}
_TRAIN_WALLS = ("plain", "rows", "columns", "checks", "dots", "gradient")
_OPEN_WALLS = ("bricks", "zigzag", "diamonds", "rings")
SPLIT_WALLS = {"train": _TRAIN_WALLS, "heldout": _TRAIN_WALLS, "open": _OPEN_WALLS}
