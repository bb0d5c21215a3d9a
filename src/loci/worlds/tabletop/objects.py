"""The objects that tasks put on the table, big and of clear colours."""

from __future__ import annotations

import numpy as np

from loci.worlds.render.geom import Geom
from loci.worlds.render.materials import Color, Material
from loci.worlds.tabletop.arms import TABLE
from loci.worlds.tabletop.table import Button, Point, TableObject

RED: Color = (0.90, 0.08, 0.08)
GREEN: Color = (0.05, 0.65, 0.15)
BLUE: Color = (0.10, 0.22, 0.95)
YELLOW: Color = (1.00, 0.86, 0.05)
PURPLE: Color = (0.55, 0.15, 0.75)
WHITE: Color = (0.97, 0.97, 0.97)
BLACK: Color = (0.06, 0.06, 0.06)
TEAL: Color = (0.10, 0.55, 0.60)

BLOCK, LID = 0.025, 0.036


def box(half: Point, at: Point, color: Color) -> Geom:
    return Geom("box", half, np.array(at), material=Material(color))


def disc(radius: float, half: float, at: Point, color: Color) -> Geom:
    return Geom("cylinder", (radius, half, 0), np.array(at), material=Material(color))


def on_table(x: float, y: float) -> np.ndarray:
    """A point of the table's top, (3,)."""
    return np.array([x, y, TABLE])


def _point(at: np.ndarray) -> Point:
    return (float(at[0]), float(at[1]), float(at[2]))


def block(name: str, color: Color, at: np.ndarray) -> TableObject:
    """A cube with sides of 5 cm."""
    geoms = (box((BLOCK, BLOCK, BLOCK), (0, 0, BLOCK), color),)
    return TableObject(name, geoms, (BLOCK, BLOCK), 2 * BLOCK, _point(at), grip=BLOCK, width=0.65)


def lid(name: str, color: Color, at: np.ndarray) -> TableObject:
    """A cap of 7 cm with a knob; it closes over a block."""
    geoms = (
        box((LID, LID, 0.03), (0, 0, 0.03), color),
        box((0.012, 0.012, 0.012), (0, 0, 0.072), BLACK),
    )
    half = (LID, LID)
    return TableObject(name, geoms, half, 0.084, _point(at), grip=0.075, width=0.3, hollow=True)


def mat(name: str, color: Color, at: np.ndarray, half: float = 0.042) -> TableObject:
    """A flat square that stays where it is."""
    geoms = (box((half, half, 0.002), (0, 0, 0.002), color),)
    return TableObject(name, geoms, (half, half), 0.004, _point(at))


def button(name: str, color: Color, at: np.ndarray, radius: float = 0.045) -> Button:
    """A button that can be pressed within `radius` metres of its middle: a foot of 1 cm more in
    diameter, under a cap of 1.6 cm less."""
    foot = (disc(radius + 0.005, 0.011, (0, 0, 0.011), BLACK),)
    cap = (disc(radius - 0.008, 0.012, (0, 0, 0.024), color),)
    return Button(name, _point(at), foot, cap, radius, 0.036)


def card(number: int, at: np.ndarray) -> tuple[Geom, ...]:
    """A white card of 14 x 16 cm with 1 to 9 black squares in rows of three, as scenery."""
    x, y, z = _point(at)
    geoms = [box((0.07, 0.08, 0.001), (x, y, z + 0.001), WHITE)]
    for place in range(number):
        row, column = divmod(place, 3)
        at_square = (x + 0.044 * (column - 1), y + 0.05 * (1 - row), z + 0.003)
        geoms.append(box((0.017, 0.02, 0.001), at_square, BLACK))
    return tuple(geoms)
