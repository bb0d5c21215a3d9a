"""Procedural first-person rooms: four distinguishable walls and seven or eight distinct objects.

World axes are OpenCV-like: y points down, the floor is y = 0, the room's centre is x = z = 0.
Everything follows from (split, seed). Source: ours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from loci.errors import LociError, did_you_mean
from loci.geometry import Camera
from loci.worlds.render.geom import Geom
from loci.worlds.render.materials import Color, Material
from loci.worlds.render.renderer import Scene, Views
from loci.worlds.render.shapes import COLORS, SHAPES, SPLIT_COLORS, SPLIT_SHAPES, SPLIT_WALLS

SPLITS = ("train", "heldout", "open")
HEIGHT = 2.6
EYE = 1.3
# The camera stays within this distance of the room's centre; objects stay well outside it.
FREE_RADIUS = 1.3
CANDIDATES = 8
PEDESTAL = Material((0.55, 0.55, 0.55))
# Where the walls are, seen from a room's centre: +z, +x, -z, -x.
OUTWARD = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0))
# Local z up -> world y down.
UPRIGHT = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
# Muted, so that objects stand out; hues far apart, so that walls differ.
WALL_COLORS: tuple[Color, ...] = (
    (0.78, 0.48, 0.44),
    (0.80, 0.68, 0.42),
    (0.52, 0.68, 0.42),
    (0.40, 0.66, 0.62),
    (0.44, 0.56, 0.78),
    (0.62, 0.48, 0.74),
    (0.78, 0.52, 0.66),
    (0.70, 0.68, 0.64),
)
FLOOR_COLORS: tuple[Color, ...] = (
    (0.50, 0.40, 0.32),
    (0.40, 0.42, 0.46),
    (0.38, 0.44, 0.36),
    (0.52, 0.48, 0.42),
)
CEILING_COLORS: tuple[Color, ...] = ((0.86, 0.85, 0.82), (0.80, 0.84, 0.88), (0.88, 0.82, 0.78))


@dataclass(frozen=True)
class Object:
    """An object with an identity, (shape, color).

    `position` (x, y, z) is its centre in the world, `size` the side in metres of the cube it fits,
    `yaw` its turn about the vertical in radians (0 shows its face towards -z).
    """

    shape: str
    color: str
    position: tuple[float, float, float]
    size: float
    yaw: float

    def geoms(self, identity: int) -> list[Geom]:
        """The world geoms of this object, marked with `identity`."""
        turn = _yaw(self.yaw) @ UPRIGHT
        centre, material = np.array(self.position), Material(COLORS[self.color])
        return [
            Geom(
                kind,
                (self.size * size[0], self.size * size[1], self.size * size[2]),
                centre + turn @ (self.size * np.array(at)),
                turn @ rotation,
                identity,
                material,
            )
            for kind, size, at, rotation in SHAPES[self.shape]
        ]


@dataclass(frozen=True, eq=False, kw_only=True)
class Interior:
    """What a camera walks through: walls around, and objects with identities.

    `places` are where the objects stand, `start` (4, 4) is where every path begins. An object that
    was taken away is None: the places of the others, and so their identities, stay. `fittings` are
    what else is in there.
    """

    seed: int
    split: str
    places: tuple[Object, ...]
    objects: tuple[Object | None, ...]
    start: np.ndarray
    fittings: tuple[Geom, ...] = ()

    def shell(self) -> list[Geom]:
        """Floor, ceiling and walls."""
        raise NotImplementedError

    def another(self, seed: int) -> Self:
        """One that could be mistaken for this one, of the same split; its start corresponds."""
        raise NotImplementedError

    @cached_property
    def scene(self) -> Scene:
        """The geoms, compiled once."""
        geoms = [*self.shell(), *self.fittings]
        for place in self.places:
            x, y, z = place.position
            foot = -(y + 0.45 * place.size)
            geoms.append(
                Geom(
                    "cylinder",
                    (0.07, foot / 2, 0),
                    np.array([x, -foot / 2, z]),
                    UPRIGHT,
                    material=PEDESTAL,
                )
            )
        for identity, item in enumerate(self.objects):
            if item is not None:
                geoms.extend(item.geoms(identity))
        return Scene(geoms)

    def render(self, poses: np.ndarray, camera: Camera | None = None) -> Views:
        """The views from absolute camera-to-world `poses` (T, 4, 4); identity indexes `objects`."""
        return self.scene.render(poses, camera)

    def with_object(self, index: int, item: Object | None) -> Self:
        """The same with another object (or none) at place `index`."""
        if not 0 <= index < len(self.objects):
            raise LociError(f"room has objects 0 to {len(self.objects) - 1}, not {index}")
        objects = list(self.objects)
        objects[index] = item
        return replace(self, objects=tuple(objects))


@dataclass(frozen=True, eq=False, kw_only=True)
class Room(Interior):
    """One room. `width` (x) and `depth` (z) in metres; `walls` are the materials of the walls at
    +z, +x, -z, -x.
    """

    width: float
    depth: float
    walls: tuple[Material, Material, Material, Material]
    floor: Material
    ceiling: Material
    free_radius: float = FREE_RADIUS

    def shell(self) -> list[Geom]:
        """Floor, ceiling and the four walls as planes that face inwards."""
        half = {"x": self.width / 2, "z": self.depth / 2}
        geoms = floor_and_ceiling(self.floor, self.ceiling)
        for direction, material in zip(OUTWARD, self.walls, strict=True):
            outward = np.array(direction)
            at = outward * (half["z"] if direction[2] else half["x"])
            geoms.append(Geom("plane", (0, 0, 0), at, wall_axes(outward), material=material))
        return geoms

    def another(self, seed: int) -> Room:
        """The room numbered `seed`."""
        return sample_room(seed, self.split)


def room_rng(split: str, seed: int, purpose: str) -> np.random.Generator:
    """The random stream of one purpose in one room; streams of different names are unrelated."""
    if split not in SPLITS:
        raise LociError(f"unknown split '{split}'{did_you_mean(split, SPLITS)}")
    if seed < 0:
        raise LociError(f"seed {seed} is negative; give 0 or more")
    digest = hashlib.sha256(f"loci rooms 1/{split}/{seed}/{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def sample_room(seed: int, split: str = "train") -> Room:
    """The room numbered `seed` of a split ("train", "heldout" or "open").

    Raises LociError for an unknown split or a negative seed.
    """
    rng = room_rng(split, seed, "room")
    width, depth = rng.uniform(5.4, 6.5, size=2)
    hues = rng.permutation(len(WALL_COLORS))[:4]
    patterns = rng.permutation(SPLIT_WALLS[split])[:4]
    walls = tuple(
        two_tone(rng, WALL_COLORS[h], str(p), (0.7, 1.3))
        for h, p in zip(hues, patterns, strict=True)
    )
    floor = two_tone(rng, FLOOR_COLORS[rng.integers(len(FLOOR_COLORS))], "checks", (1.2, 1.8), 0.1)
    ceiling = Material(CEILING_COLORS[rng.integers(len(CEILING_COLORS))])
    objects = _objects(rng, split, width, depth, walls)
    radius, angle = 0.5 * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    start = camera_pose(radius * np.sin(angle), radius * np.cos(angle), rng.uniform(-np.pi, np.pi))
    return Room(
        seed=seed,
        split=split,
        width=float(width),
        depth=float(depth),
        walls=(walls[0], walls[1], walls[2], walls[3]),
        floor=floor,
        ceiling=ceiling,
        places=objects,
        objects=objects,
        start=start,
    )


def candidates(room: Interior, index: int) -> tuple[Object, ...]:
    """Eight objects that could stand at place `index`, the true one first.

    They are distinct in (shape, color): three share only the true colour, three only the true
    shape, one neither, so that knowing one of the two is not enough. Deterministic from the room.
    """
    if not 0 <= index < len(room.places):
        raise LociError(f"room has objects 0 to {len(room.places) - 1}, not {index}")
    true = room.places[index]
    rng = room_rng(room.split, room.seed, f"candidates {index}")
    shapes = [s for s in rng.permutation(SPLIT_SHAPES[room.split]) if s != true.shape]
    colors = [c for c in rng.permutation(SPLIT_COLORS[room.split]) if c != true.color]
    pairs = [(str(s), true.color) for s in shapes[:3]]
    pairs += [(true.shape, str(c)) for c in colors[:3]]
    pairs += [(str(shapes[3]), str(colors[3]))]
    return (true, *(replace(true, shape=s, color=c) for s, c in pairs[: CANDIDATES - 1]))


def camera_pose(x: float, z: float, yaw: float) -> np.ndarray:
    """Camera-to-world (4, 4) at eye height; yaw > 0 turns right, from +z towards +x."""
    pose = np.eye(4)
    pose[:3, :3] = _yaw(yaw)
    pose[:3, 3] = x, -EYE, z
    return pose


def _yaw(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1.0, 0], [-s, 0, c]])


def two_tone(
    rng: np.random.Generator,
    color: Color,
    pattern: str,
    period: tuple[float, float],
    contrast: float = 0.22,
) -> Material:
    """`color` and a darker or lighter companion."""
    shift = contrast * rng.choice([-1.0, 1.0])
    second = tuple(float(np.clip(c + shift, 0.05, 0.97)) for c in color)
    length = float(rng.uniform(*period))
    return Material(color, (second[0], second[1], second[2]), pattern, length)


def _objects(
    rng: np.random.Generator,
    split: str,
    width: float,
    depth: float,
    walls: tuple[Material, ...],
) -> tuple[Object, ...]:
    """Seven or eight objects around the room, at eye height, close to the walls."""
    count = int(rng.integers(7, 9))
    pairs = [(s, c) for s in SPLIT_SHAPES[split] for c in SPLIT_COLORS[split]]
    queue = [pairs[i] for i in rng.permutation(len(pairs))]
    turn = rng.uniform(0, 2 * np.pi)
    objects = []
    for place in range(count):
        azimuth = turn + 2 * np.pi * (place + rng.uniform(-0.12, 0.12)) / count
        size = float(rng.uniform(0.66, 0.8))
        toward = np.array([np.sin(azimuth), np.cos(azimuth)])
        # As far out as the walls allow, but no further than a clear view needs.
        to_wall = np.min(np.array([width, depth]) / 2 / np.maximum(np.abs(toward), 1e-9))
        gap = 0.5 * size / np.max(np.abs(toward))
        distance = float(min(to_wall - gap - 0.05, rng.uniform(2.3, 2.6)))
        behind = walls[wall_behind(toward, width, depth)]
        # The first of the shuffled ones that stands out from the wall behind it.
        shape, color = queue.pop(next(i for i, (_, c) in enumerate(queue) if stands_out(c, behind)))
        objects.append(
            Object(
                shape=shape,
                color=color,
                position=(
                    float(distance * toward[0]),
                    float(-EYE + rng.uniform(-0.1, 0.1)),
                    float(distance * toward[1]),
                ),
                size=size,
                # Its face (local -y, world -z at yaw 0) towards the centre, give or take.
                yaw=float(azimuth + rng.uniform(-0.35, 0.35)),
            )
        )
    return tuple(objects)


def wall_behind(toward: np.ndarray, width: float, depth: float) -> int:
    """Which wall of a room one looks at from its centre in direction `toward` (x, z)."""
    along_z, along_x = toward[1] * width, toward[0] * depth
    return (along_z < 0) * 2 if abs(along_z) > abs(along_x) else 1 + (along_x < 0) * 2


def stands_out(color: str, wall: Material) -> bool:
    """Whether an object of this colour stands out from both tones of a wall."""
    paint = np.array(COLORS[color])
    tones = np.array([wall.color] if wall.pattern == "plain" else [wall.color, wall.second])
    return bool(np.linalg.norm(tones - paint, axis=1).min() > 0.33)


def floor_and_ceiling(floor: Material, ceiling: Material) -> list[Geom]:
    """Two endless planes, HEIGHT apart, that face each other."""
    return [
        Geom("plane", (0, 0, 0), np.zeros(3), UPRIGHT, material=floor),
        Geom(
            "plane",
            (0, 0, 0),
            np.array([0, -HEIGHT, 0.0]),
            np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]),
            material=ceiling,
        ),
    ]


def wall_axes(outward: np.ndarray) -> np.ndarray:
    """A wall's own axes (3, 3): x level, y up, z into the room, against `outward` (3,)."""
    up = np.array([0.0, -1.0, 0.0])
    return np.stack([np.cross(up, -outward), up, -outward], axis=1)
