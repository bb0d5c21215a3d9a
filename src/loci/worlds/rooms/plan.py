"""The plan of a flat: rectangular rooms side by side, doors between them, and where one may walk.

Axes are those of the rooms: y down, floor y = 0, walls along x and z. Source: ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from loci.errors import LociError
from loci.worlds.rooms.room import OUTWARD

WALL = 0.16
"""Thickness of a wall, metres; each of its two faces belongs to the room that it looks into."""
DOOR_WIDTH, DOOR_HEIGHT = 1.0, 2.05
# Metres. The camera walks within FREE of a room's middle, and MARGIN away from a door's jambs.
SIDE = (3.8, 4.4)
FREE = 0.6
MARGIN = 0.25
# How far a door may be from the middle of its wall.
AMISS = 0.3
# Rooms on a grid, (column, row) each; neighbours have a door between them. The first and the last
# are furthest apart, or in a ring.
GRIDS: dict[int, tuple[tuple[tuple[int, int], ...], ...]] = {
    2: (((0, 0), (1, 0)),),
    3: (((0, 0), (1, 0), (2, 0)), ((0, 0), (1, 0), (1, 1))),
    4: (((0, 0), (1, 0), (1, 1), (0, 1)),),
}
ROOMS = tuple(GRIDS)


@dataclass(frozen=True)
class Chamber:
    """One room of a flat: its middle (x, z) and inner width (x) and depth (z), metres."""

    x: float
    z: float
    width: float
    depth: float

    @property
    def middle(self) -> np.ndarray:
        return np.array([self.x, self.z])

    def half(self, side: int) -> float:
        """From the middle to the wall at a side (0 to 3: +z, +x, -z, -x)."""
        return (self.width if side % 2 else self.depth) / 2


@dataclass(frozen=True)
class Door:
    """A door between `rooms` (a, b), amid the wall's thickness at (x, z), metres; seen from room a
    it is at `side`, from b at the opposite one."""

    rooms: tuple[int, int]
    side: int
    x: float
    z: float

    @property
    def middle(self) -> np.ndarray:
        return np.array([self.x, self.z])

    def beyond(self, room: int) -> int:
        """The room behind the door, seen from `room`."""
        return self.rooms[1] if room == self.rooms[0] else self.rooms[0]

    def side_in(self, room: int) -> int:
        """At which side of `room` the door is."""
        return self.side if room == self.rooms[0] else (self.side + 2) % 4


@dataclass(frozen=True, eq=False)
class Plan:
    """Rooms, and the doors between them."""

    chambers: tuple[Chamber, ...]
    doors: tuple[Door, ...]

    def doors_of(self, room: int) -> list[Door]:
        return [door for door in self.doors if room in door.rooms]

    def room_at(self, x: float, z: float) -> int:
        """The room around a point; in a door, either."""
        return int(np.argmin([
            max(abs(x - c.x) - c.width / 2, abs(z - c.z) - c.depth / 2) for c in self.chambers
        ]))  # fmt: skip

    def way(self, start: int, end: int) -> list[Door]:
        """The doors between two rooms, on a shortest way."""
        found, queue = {start: []}, deque([start])
        while queue:
            room = queue.popleft()
            for door in self.doors_of(room):
                if door.beyond(room) not in found:
                    found[door.beyond(room)] = [*found[room], door]
                    queue.append(door.beyond(room))
        return found[end]

    @cached_property
    def ground(self) -> tuple[np.ndarray, ...]:
        """Where a camera may walk, as convex polygons (V, 2) of (x, z), in no particular turning
        sense: a disc amid each room, and what tapers from there to each of its doors."""
        turn = np.arange(24) * (2 * np.pi / 24)
        disc = FREE * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        pieces = [chamber.middle + disc for chamber in self.chambers]
        for door in self.doors:
            across = np.array([1.0, 0.0] if door.side % 2 == 0 else [0.0, 1.0])
            for room in door.rooms:
                middle, narrow = self.chambers[room].middle, DOOR_WIDTH / 2 - MARGIN
                pieces.append(np.stack([
                    middle - FREE * across, middle + FREE * across,
                    door.middle + narrow * across, door.middle - narrow * across,
                ]))  # fmt: skip
        return tuple(pieces)

    def off_ground(self, points: np.ndarray) -> np.ndarray:
        """How far `points` (N, 2) of (x, z) are from where a camera may walk, metres (N,)."""
        return np.min([_distance(polygon, points) for polygon in self.ground], axis=0)


def draw_plan(rng: np.random.Generator, rooms: Sequence[int] = ROOMS) -> Plan:
    """A plan with one of these numbers of rooms, room 0 around the origin.

    Raises LociError for a number other than two, three or four, and for none.
    """
    bad = next((n for n in rooms if n not in ROOMS), None)
    if bad is not None or not rooms:
        raise LociError(f"a flat has {ROOMS[0]} to {ROOMS[-1]} rooms, not {bad or 'none'}")
    grids = GRIDS[rooms[int(rng.integers(len(rooms)))]]
    grid = grids[int(rng.integers(len(grids)))]
    turned = bool(rng.uniform() < 0.5)
    cells = [(row, column) if turned else (column, row) for column, row in grid]
    sides = rng.uniform(*SIDE, size=(2, 3))
    # Middles of columns and rows, the first at 0.
    steps = (sides[:, 1:] + sides[:, :-1]) / 2 + WALL
    at = np.concatenate([np.zeros((2, 1)), steps.cumsum(axis=1)], axis=1)
    chambers = tuple(
        Chamber(float(at[0, i]), float(at[1, j]), float(sides[0, i]), float(sides[1, j]))
        for i, j in cells
    )
    doors = []
    for a, (i, j) in enumerate(cells):
        for side, cell in ((0, (i, j + 1)), (1, (i + 1, j))):
            if cell in cells:
                aside = float(rng.uniform(-AMISS, AMISS))
                room, far = chambers[a], chambers[a].half(side) + WALL / 2
                x, z = (aside, far) if side == 0 else (far, aside)
                doors.append(Door((a, cells.index(cell)), side, room.x + x, room.z + z))
    return Plan(chambers, tuple(doors))


def opening(chamber: Chamber, door: Door, side: int) -> float:
    """Where the middle of a door is along the wall at `side` of a chamber, from the wall's middle,
    positive to the left of one who looks at it from inside: the wall's own x axis."""
    outward = np.array(OUTWARD[side])
    left = np.cross([0.0, -1.0, 0.0], -outward)
    return float(left[[0, 2]] @ (door.middle - chamber.middle))


def _distance(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """From `points` (N, 2) to a convex polygon (V, 2), (N,); 0 inside."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    to = points[:, None] - polygon
    share = ((to * edges).sum(axis=-1) / (edges**2).sum(axis=-1)).clip(0, 1)
    far = np.linalg.norm(to - share[..., None] * edges, axis=-1).min(axis=1)
    turns = edges[:, 0] * to[..., 1] - edges[:, 1] * to[..., 0]
    inside = (turns >= 0).all(axis=1) | (turns <= 0).all(axis=1)
    return np.where(inside, 0.0, far)
