"""Camera paths through the doors of a flat and back: exactly, walking home forwards, beside the way
out, or round by another door.

A walker stands on a lattice of points and turns by whole steps, so that what it reaches again, from
wherever, is the same number: poses repeat bit for bit. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loci.errors import LociError, did_you_mean
from loci.worlds.rooms.flat import LATTICE, MIDDLE, Flat, on_lattice
from loci.worlds.rooms.paths import (
    CHUNK,
    FULL_TURN,
    TURN,
    Path,
    Stand,
    lay,
    stand_at,
)
from loci.worlds.rooms.plan import FREE, ROOMS, Door
from loci.worlds.rooms.room import room_rng

STRIDE = 0.3
"""Metres that a walker goes in a frame, at most; the rooms' paths go half as far."""
BESIDE = (0.1, 0.6)
"""How far beside the way out a way back may lead, metres."""
ASKEW = (5.0, 15.0)
"""How much it looks to another side there, degrees."""
# The distance beside changes by no more than this from frame to frame, metres.
_VEER = 0.08
# Whoever looks further aside than this many turn steps turns before walking on.
_AHEAD = 2


class Walker:
    """Goes through a flat frame by frame, where `Plan.ground` lets it.

    `stands` are its frames so far, the first at the flat's start; `trail` is the way from there to
    where it is, without what was retraced; `passed` the last door that it was led through.
    """

    def __init__(self, flat: Flat, rng: np.random.Generator):
        first, self.facing = stand_at(flat.start)
        self.plan, self.rng = flat.plan, rng
        self.stands, self.trail = [first], [first]
        self.passed: Door | None = None

    @property
    def here(self) -> Stand:
        """The last stand; a way beside another ends between two whole turn steps, and goes on from
        one of them."""
        last = self.stands[-1]
        return replace(last, heading=round(last.heading))

    @property
    def room(self) -> int:
        return self.plan.room_at(self.here.x, self.here.z)

    def turn(self, steps: int) -> None:
        """Turn on the spot, to the right if `steps` > 0."""
        for _ in range(abs(steps)):
            self._take(replace(self.here, heading=self.here.heading + int(np.sign(steps))))

    def look_around(self, frames: int) -> None:
        """Turn to either side for so many frames."""
        self.turn(frames * int(self.rng.choice([-1, 1])))

    def sway(self, frames: int) -> None:
        """Look to one side and back, for so many frames; an odd one is spent waiting."""
        side = int(self.rng.choice([-1, 1]))
        if frames % 2:
            self._take(self.here)
        self.turn(side * (frames // 2))
        self.turn(-side * (frames // 2))

    def face(self, heading: int) -> None:
        """Turn to `heading`, the shorter way round."""
        self.turn(_around(heading - self.here.heading))

    def walk(self, x: float, z: float) -> None:
        """To (x, z), metres, looking ahead: straight, or by the middle of the room where objects
        may be in the way."""
        begin, x, z = self.here, on_lattice(x), on_lattice(z)
        far = float(np.hypot(x - begin.x, z - begin.z))
        share = np.linspace(0, 1, 2 + int(far / 0.1))[:, None]
        line = (1 - share) * (begin.x, begin.z) + share * (x, z)
        if self.plan.off_ground(line).max() > 0.5 / LATTICE:
            middle = self.plan.chambers[self.room].middle.tolist()
            self._straight(on_lattice(middle[0]), on_lattice(middle[1]))
        self._straight(x, z)

    def _straight(self, x: float, z: float) -> None:
        begin = self.here
        far = np.hypot(x - begin.x, z - begin.z)
        ahead = round((np.arctan2(x - begin.x, z - begin.z) - self.facing) / TURN)
        off = _around(ahead - begin.heading)
        if far and abs(off) > _AHEAD:
            self.turn(off - _AHEAD * int(np.sign(off)))
        count = int(np.ceil(far / STRIDE - 1e-9))
        for n in range(1, count + 1):
            share = n / count
            self._take(Stand(
                on_lattice(begin.x + share * (x - begin.x)),
                on_lattice(begin.z + share * (z - begin.z)),
                self.here.heading + int(np.sign(_around(ahead - self.here.heading))),
            ))  # fmt: skip

    def stroll(self, far: float = MIDDLE) -> None:
        """To some place within `far` metres of the middle of the room."""
        radius, angle = far * np.sqrt(self.rng.uniform()), self.rng.uniform(0, 2 * np.pi)
        middle = self.plan.chambers[self.room].middle
        x, z = middle + radius * np.array([np.sin(angle), np.cos(angle)])
        self.walk(float(x), float(z))

    def through(self, door: Door) -> None:
        """Through a door of the room, and on into the middle of the next one."""
        beyond, self.passed = door.beyond(self.room), door
        self.walk(door.x, door.z)
        middle = self.plan.chambers[beyond].middle
        aside = MIDDLE * self.rng.uniform(-0.7, 0.7, size=2)
        self.walk(*(middle + aside).tolist())

    def home(self) -> None:
        """Forwards to where it started, and there to its first view."""
        room, first = self.room, self.stands[0]
        for door in self.plan.way(room, self.plan.room_at(first.x, first.z)):
            self.walk(door.x, door.z)
        self.walk(first.x, first.z)
        self.face(0)

    def retrace(self, frames: int) -> None:
        """Back over the last `frames` of the trail, bit for bit, or to its beginning."""
        for _ in range(min(frames, len(self.trail) - 1)):
            self.trail.pop()
            self.stands.append(self.trail[-1])

    def retrace_beside(self, frames: int) -> None:
        """The same, but beside it: BESIDE metres to one side, ASKEW degrees to another; exactly, if
        somewhere not even the least of that is on the ground. A new trail begins where it ends."""
        frames = min(frames, len(self.trail) - 1)
        way = self.trail[-2 : -2 - frames : -1]
        self.stands.extend(self._beside(way))
        self.trail = [self.here]

    def _beside(self, way: list[Stand]) -> list[Stand]:
        side, target = self.rng.choice([-1, 1]), self.rng.uniform(BESIDE[0] + 0.1, BESIDE[1])
        askew = self.rng.choice([-1, 1]) * np.radians(self.rng.uniform(*ASKEW)) / TURN
        at = np.array([[stand.x, stand.z] for stand in way])
        right = self.facing + TURN * np.array([stand.heading for stand in way]) + np.pi / 2
        across = side * np.stack([np.sin(right), np.cos(right)], axis=1)
        # As far as there is ground all the way from the trail.
        tries = np.linspace(BESIDE[0], target, 26)
        points = at[:, None] + tries[:, None] * across[:, None]
        firm = self.plan.off_ground(points.reshape(-1, 2)).reshape(len(way), -1) == 0
        if not firm[:, 0].all():
            return way
        room = tries[firm.cumprod(axis=1).sum(axis=1) - 1]
        # From the least on, and no faster away from the trail or towards it than one may veer.
        apart = np.abs(np.subtract.outer(np.arange(len(way)), np.arange(len(way))))
        away = BESIDE[0] + _VEER * np.arange(len(way))
        far = np.minimum((room + _VEER * apart).min(axis=1), away)
        return [
            Stand(float(x), float(z), stand.heading + float(askew))
            for stand, (x, z) in zip(way, at + far[:, None] * across, strict=True)
        ]

    def _take(self, stand: Stand) -> None:
        self.stands.append(stand)
        self.trail.append(stand)


@dataclass(frozen=True)
class FlatWalk:
    """A named path through a flat: its frames, those of the way out, how a walker goes `there` and
    then `back`, and how many rooms the flat may have."""

    frames: int
    out: int
    there: Callable[[Walker, int], None]
    back: Callable[[Walker, int], None]
    rooms: Sequence[int] = ROOMS


def _next_door(walker: Walker, out: int) -> None:
    """Into a room next door, and there a look around until frame `out`."""
    walker.look_around(int(walker.rng.integers(0, 5)))
    doors = walker.plan.doors_of(walker.room)
    walker.through(doors[int(walker.rng.integers(len(doors)))])
    walker.look_around(out - len(walker.stands))


def _two_doors(walker: Walker, out: int) -> None:
    """Through two doors, and in the room behind them a look around until frame `out`."""
    walker.look_around(int(walker.rng.integers(0, 5)))
    plan, home = walker.plan, walker.room
    ways = [plan.way(home, room) for room in range(len(plan.chambers))]
    ways = [way for way in ways if len(way) == 2]
    for door in ways[int(walker.rng.integers(len(ways)))]:
        walker.through(door)
    walker.look_around(out - len(walker.stands))


def _half_round(walker: Walker, out: int) -> None:
    """Through two doors of four rooms in a ring, and there a look around."""
    doors = walker.plan.doors_of(walker.room)
    walker.through(doors[int(walker.rng.integers(2))])
    _onwards(walker)
    walker.look_around(out - len(walker.stands))


def _onwards(walker: Walker) -> None:
    """Through the door of a room that it did not come in by."""
    walker.through(next(d for d in walker.plan.doors_of(walker.room) if d is not walker.passed))


def _round(walker: Walker, frames: int) -> None:
    """On round the ring, and so home by another door than that it left by."""
    _onwards(walker)
    _home(walker, frames)


def _home(walker: Walker, frames: int) -> None:
    walker.home()
    walker.sway(frames - len(walker.stands))


def _retrace(walker: Walker, frames: int) -> None:
    walker.retrace(frames - len(walker.stands))


def _beside(walker: Walker, frames: int) -> None:
    walker.retrace_beside(frames - len(walker.stands))


# The frames are what the longest walls and turns take.
FLAT_PATHS: dict[str, FlatWalk] = {
    "door-return": FlatWalk(81, 41, _next_door, _retrace),
    "door-home": FlatWalk(89, 41, _next_door, _home),
    "door-beside": FlatWalk(81, 41, _next_door, _beside),
    "doors-return": FlatWalk(129, 65, _two_doors, _retrace, rooms=(3, 4)),
    "doors-round": FlatWalk(133, 61, _half_round, _round, rooms=(4,)),
}


def make_flat_path(name: str, flat: Flat, seed: int) -> Path:
    """The path called `name` (a key of FLAT_PATHS) from the start of `flat`; `seed` draws its
    turns and doors.

    Raises LociError for an unknown name, and for a flat with other rooms than the path needs.
    """
    if name not in FLAT_PATHS:
        raise LociError(f"unknown path '{name}'{did_you_mean(name, FLAT_PATHS)}")
    kind, rooms = FLAT_PATHS[name], len(flat.plan.chambers)
    if rooms not in kind.rooms:
        need = " or ".join(map(str, kind.rooms))
        raise LociError(f"path '{name}' needs a flat of {need} rooms, not {rooms}")
    walker = Walker(flat, room_rng(flat.split, seed, f"path {name}"))
    kind.there(walker, kind.out)
    kind.back(walker, kind.frames)
    assert len(walker.stands) == kind.frames
    return lay(name, walker.stands, walker.facing, flat.start, kind.out)


def wander_flat(flat: Flat, seed: int, steps: int = 96) -> Path:
    """A path for training: looks around, walks within a room and through doors, exact returns and
    returns beside the way, in random order, `steps` (4 n) long.

    It has every use of memory that the named paths test, in other lengths and orders. Raises
    LociError for a number of steps that is no multiple of 4.
    """
    if steps < CHUNK or steps % CHUNK:
        raise LociError(f"a path has 1 + 4 n frames; {steps} steps is no multiple of {CHUNK}")
    rng = room_rng(flat.split, seed, f"path wander flat {steps}")
    walker = Walker(flat, rng)
    while len(walker.stands) <= steps:
        behind = len(walker.trail) - 1
        if behind > 3 and rng.uniform() < 0.35:
            back = behind if rng.uniform() < 0.6 else int(rng.integers(3, 25))
            if rng.uniform() < 0.3:
                walker.retrace_beside(back)
            else:
                walker.retrace(back)
            continue
        what = rng.uniform()
        if what < 0.35:
            walker.look_around(int(rng.integers(3, 17)))
        elif what < 0.5:
            walker.stroll(FREE - BESIDE[0] - 0.02)
        elif what < 0.6:
            walker.home()
        else:
            doors = walker.plan.doors_of(walker.room)
            walker.through(doors[int(rng.integers(len(doors)))])
    out = 1 + CHUNK * (steps // CHUNK // 2)
    return lay("wander", walker.stands[: steps + 1], walker.facing, flat.start, out)


def _around(steps: int) -> int:
    """Turn steps, the shorter way round: -15 to 16."""
    return (steps + FULL_TURN // 2 - 1) % FULL_TURN - FULL_TURN // 2 + 1
