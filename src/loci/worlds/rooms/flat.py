"""Procedural flats: two to four rooms with doors between them, so that walls hide what is near.

Each room has wall colours and patterns of its own and three to five objects. Axes, splits and
vocabulary are those of the rooms. Everything follows from (split, seed). Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loci.worlds.render.geom import Geom
from loci.worlds.render.materials import Material
from loci.worlds.render.shapes import SPLIT_COLORS, SPLIT_SHAPES, SPLIT_WALLS
from loci.worlds.rooms.plan import (
    DOOR_HEIGHT,
    DOOR_WIDTH,
    ROOMS,
    WALL,
    Chamber,
    Plan,
    draw_plan,
    opening,
)
from loci.worlds.rooms.room import (
    CEILING_COLORS,
    EYE,
    FLOOR_COLORS,
    HEIGHT,
    OUTWARD,
    WALL_COLORS,
    Interior,
    Object,
    camera_pose,
    floor_and_ceiling,
    room_rng,
    stands_out,
    two_tone,
    wall_axes,
    wall_behind,
)

Walls = tuple[Material, Material, Material, Material]
# Objects are this big and, where the walls allow, this far from the middle of their room, metres.
SIZES, REACH = (0.5, 0.62), (1.4, 2.1)
# An object fits a circle of this share of its size, and keeps GAP from where the camera walks.
GIRTH, GAP = 0.65, 0.2
# Places that are drawn before those of a room are drawn anew.
TRIES = 40
# The start is this close to the middle of its room, in steps of 1 / LATTICE metres.
MIDDLE, LATTICE = 0.25, 64
# A wall goes on this far into the floor and the ceiling, so that no light comes through.
SUNK = 0.05


@dataclass(frozen=True, eq=False, kw_only=True)
class Flat(Interior):
    """Rooms joined by doors. `walls` are the materials of each room's walls at +z, +x, -z, -x, as
    seen from inside it; `homes` the room in which each object stands.
    """

    plan: Plan
    walls: tuple[Walls, ...]
    floor: Material
    ceiling: Material
    homes: tuple[int, ...]

    def shell(self) -> list[Geom]:
        """Floor, ceiling, and for each side of each room half the thickness of a wall."""
        geoms = floor_and_ceiling(self.floor, self.ceiling)
        for number, (chamber, walls) in enumerate(zip(self.plan.chambers, self.walls, strict=True)):
            doors = {d.side_in(number): d for d in self.plan.doors_of(number)}
            for side, material in enumerate(walls):
                door = doors.get(side)
                at = None if door is None else opening(chamber, door, side)
                geoms.extend(_wall(chamber, side, material, at))
        return geoms

    def another(self, seed: int) -> Flat:
        """A flat of the same plan and the same start, with the walls and objects of `seed`: what
        walks through this one walks through that one's doors."""
        return replace(sample_flat(seed, self.split, plan=self.plan), start=self.start)


def sample_flat(
    seed: int, split: str = "train", rooms: Sequence[int] = ROOMS, plan: Plan | None = None
) -> Flat:
    """The flat numbered `seed` of a split ("train", "heldout" or "open").

    rooms: how many it may have, among two, three and four. plan: one that is there, instead of a
    drawn one. Raises LociError for an unknown split, a negative seed or another number of rooms.
    """
    plan = plan or draw_plan(room_rng(split, seed, "flat plan"), rooms)
    rng = room_rng(split, seed, "flat")
    walls = _papered(rng, split, len(plan.chambers))
    floor = two_tone(rng, FLOOR_COLORS[rng.integers(len(FLOOR_COLORS))], "checks", (1.2, 1.8), 0.1)
    ceiling = Material(CEILING_COLORS[rng.integers(len(CEILING_COLORS))])
    pairs = [(s, c) for s in SPLIT_SHAPES[split] for c in SPLIT_COLORS[split]]
    queue = [pairs[i] for i in rng.permutation(len(pairs))]
    objects: list[Object] = []
    homes: list[int] = []
    for number, chamber in enumerate(plan.chambers):
        things = _objects(rng, plan, chamber, walls[number], queue)
        objects.extend(things)
        homes.extend([number] * len(things))
    return Flat(
        seed=seed,
        split=split,
        places=tuple(objects),
        objects=tuple(objects),
        start=_start(rng, plan, objects, homes),
        plan=plan,
        walls=walls,
        floor=floor,
        ceiling=ceiling,
        homes=tuple(homes),
    )


def on_lattice(value: float) -> float:
    """The nearest multiple of 1 / LATTICE metres: a number that any way to it reaches exactly."""
    return round(value * LATTICE) / LATTICE


def _wall(chamber: Chamber, side: int, material: Material, door: float | None) -> list[Geom]:
    """The boxes of one wall: whole, or left and right of a door at `door` and above it."""
    outward = np.array(OUTWARD[side])
    thick = WALL / 2
    foot = np.array([chamber.x, 0, chamber.z]) + outward * (chamber.half(side) + thick / 2)
    # Walls along x are as long as the flat's outside, so that corners are closed.
    long = chamber.width / 2 + thick if side % 2 == 0 else chamber.depth / 2
    low, high = -SUNK, HEIGHT + SUNK
    spans = [(-long, long, low, high)]
    if door is not None:
        left, right = door - DOOR_WIDTH / 2, door + DOOR_WIDTH / 2
        spans = [
            (-long, left, low, high),
            (right, long, low, high),
            (left, right, DOOR_HEIGHT, high),
        ]
    axes = wall_axes(outward)
    pieces = []
    for a, b, bottom, top in spans:
        middle = ((a + b) / 2, (bottom + top) / 2)
        size = ((b - a) / 2, (top - bottom) / 2, thick / 2)
        at = foot + axes[:, 0] * middle[0] + axes[:, 1] * middle[1]
        pieces.append(Geom("box", size, at, axes, material=replace(material, offset=middle)))
    return pieces


def _papered(rng: np.random.Generator, split: str, rooms: int) -> tuple[Walls, ...]:
    """Wall materials: in a room all colours and patterns differ, in the flat all pairs of them."""
    papers: list[Walls] = []
    taken: set[tuple[int, str]] = set()
    while len(papers) < rooms:
        hues = rng.permutation(len(WALL_COLORS))[:4].tolist()
        patterns = [str(p) for p in rng.permutation(SPLIT_WALLS[split])[:4]]
        pairs = set(zip(hues, patterns, strict=True))
        if pairs & taken:
            continue
        taken |= pairs
        a, b, c, d = (
            two_tone(rng, WALL_COLORS[h], p, (0.7, 1.3))
            for h, p in zip(hues, patterns, strict=True)
        )
        papers.append((a, b, c, d))
    return tuple(papers)


def _objects(
    rng: np.random.Generator,
    plan: Plan,
    chamber: Chamber,
    walls: Walls,
    queue: list[tuple[str, str]],
) -> list[Object]:
    """Three to five objects along the walls of a room, out of the way; taken from the queue."""
    count = int(rng.integers(3, 6))
    spots = _spots(rng, plan, chamber, count)
    objects = []
    for azimuth, distance, size in spots:
        toward = np.array([np.sin(azimuth), np.cos(azimuth)])
        behind = walls[wall_behind(toward, chamber.width, chamber.depth)]
        # The first of the shuffled ones that stands out from the wall behind it.
        shape, color = queue.pop(next(i for i, (_, c) in enumerate(queue) if stands_out(c, behind)))
        x, z = chamber.middle + distance * toward
        objects.append(
            Object(
                shape=shape,
                color=color,
                position=(float(x), float(-EYE + rng.uniform(-0.1, 0.1)), float(z)),
                size=size,
                # Its face towards the middle of the room, give or take.
                yaw=float(azimuth + rng.uniform(-0.35, 0.35)),
            )
        )
    return objects


def _spots(
    rng: np.random.Generator, plan: Plan, chamber: Chamber, count: int
) -> list[tuple[float, float, float]]:
    """Azimuth, distance from the middle and size of `count` objects that are in nobody's way."""
    half = np.array([chamber.width, chamber.depth]) / 2
    while True:
        azimuth, size = rng.uniform(0, 2 * np.pi, TRIES), rng.uniform(*SIZES, TRIES)
        toward = np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1)
        # Before the wall stands half an object, turned as it may be.
        room = half - GIRTH * size[:, None] - 0.02
        to_wall = (room / np.maximum(np.abs(toward), 1e-9)).min(axis=1)
        distance = np.minimum(to_wall, rng.uniform(*REACH, TRIES))
        points = chamber.middle + distance[:, None] * toward
        chosen: list[int] = []
        for n in np.flatnonzero(plan.off_ground(points) > GIRTH * size + GAP):
            apart = np.linalg.norm(points[chosen] - points[n], axis=1)
            if (apart > 2 * GIRTH * SIZES[1]).all():
                chosen.append(int(n))
        if len(chosen) >= count:
            return [(float(azimuth[n]), float(distance[n]), float(size[n])) for n in chosen[:count]]


def _start(
    rng: np.random.Generator, plan: Plan, objects: list[Object], homes: list[int]
) -> np.ndarray:
    """A pose near the middle of the first room or the last, with one of its objects in view."""
    room = int(rng.choice([0, len(plan.chambers) - 1]))
    radius, angle = MIDDLE * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    x, z = plan.chambers[room].middle + radius * np.array([np.sin(angle), np.cos(angle)])
    x, z = on_lattice(float(x)), on_lattice(float(z))
    here = [thing for thing, home in zip(objects, homes, strict=True) if home == room]
    seen = here[int(rng.integers(len(here)))].position
    aside = rng.uniform(-0.25, 0.25)
    return camera_pose(x, z, float(np.arctan2(seen[0] - x, seen[2] - z) + aside))
