"""Variants of a room: other objects at its places, turned and moved a little, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loci.worlds.rooms.room import CANDIDATES, Object

# How a variant differs: the share of missing objects, and how far one may be moved around the
# middle of the room and turned, radians.
MISSING, MOVED, TURNED = 0.2, np.radians(2.0), 0.35


@dataclass(frozen=True)
class Thing:
    """What stands at a place of a variant, or would if it were not missing: candidate `number` of
    the place, moved and turned so far, radians."""

    thing: Object
    number: int
    missing: bool
    moved: float
    turned: float


def furnish(choices: Sequence[Sequence[Object]], draw: np.random.Generator) -> list[Thing]:
    """One of the candidates of each place of a room."""
    placed = []
    for eight in choices:
        number = int(draw.integers(CANDIDATES))
        moved, turned = draw.uniform(-MOVED, MOVED), draw.uniform(-TURNED, TURNED)
        x, y, z = eight[number].position
        azimuth, far = np.arctan2(x, z) + moved, np.hypot(x, z)
        thing = replace(
            eight[number], yaw=float(azimuth + turned),
            position=(float(far * np.sin(azimuth)), y, float(far * np.cos(azimuth))),
        )
        missing = bool(draw.uniform() < MISSING)
        placed.append(Thing(thing, number, missing, float(moved), float(turned)))
    return placed
