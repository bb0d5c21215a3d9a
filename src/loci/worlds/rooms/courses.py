"""Courses through a room or a flat: named paths, possibly cut, and where each of them leads.

A path's name says which world it is in, since no two worlds have paths of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass

from loci.errors import LociError, did_you_mean
from loci.worlds.rooms.flat import Flat, sample_flat
from loci.worlds.rooms.flat_paths import FLAT_PATHS, make_flat_path
from loci.worlds.rooms.paths import PATHS, Path, make_path
from loci.worlds.rooms.room import Room, sample_room


@dataclass(frozen=True)
class Course:
    """A named path, possibly cut: the first `frames` frames, of which `out` are the way out.

    None takes the path's own. The half circle below is the course on which something new appears
    on the way "back": the other named paths retrace themselves exactly. event: what happens there
    and how it is known, as `loci.worlds.rooms.events` has it.
    """

    name: str
    path: str
    frames: int | None = None
    out: int | None = None
    event: tuple[str, str] | None = None


LEFT45 = Course("left45-return", "left45-return")
RIGHT45 = Course("right45-return", "right45-return")
LOOP180 = Course("loop180", "loop180")
LOOP360 = Course("loop360", "loop360")
WALK = Course("walk-return", "walk-return")
EXPLORE = Course("explore", "explore")
CIRCLE = Course("circle", "loop360", frames=33, out=17)

DOOR = Course("door-return", "door-return")
DOOR_HOME = Course("door-home", "door-home")
DOOR_BESIDE = Course("door-beside", "door-beside")
DOORS = Course("doors-return", "doors-return")
ROUND = Course("doors-round", "doors-round")

# On which an observer looks out and back, and on which everything is generated.
RECALL_COURSES = (LOOP180, LOOP360, WALK, EXPLORE, CIRCLE)
LOOP_COURSES = (LEFT45, RIGHT45, LOOP180, WALK)
# The same in flats: exactly back, home forwards, beside the way out, from far, by another door.
FLAT_COURSES = (DOOR, DOOR_HOME, DOOR_BESIDE, DOORS, ROUND)


def interior_of(path: str, seed: int, split: str) -> Room | Flat:
    """What the path called `path` leads through: the room or the flat numbered `seed` of a split.

    Raises LociError for an unknown path or split, or a negative seed.
    """
    if path in PATHS:
        return sample_room(seed, split)
    if path in FLAT_PATHS:
        return sample_flat(seed, split, FLAT_PATHS[path].rooms)
    raise LociError(f"unknown path '{path}'{did_you_mean(path, (*PATHS, *FLAT_PATHS))}")


def way_through(path: str, interior: Room | Flat) -> Path:
    """The path called `path` through that room or flat, from its start; its seed draws the path."""
    if isinstance(interior, Flat):
        return make_flat_path(path, interior, interior.seed)
    return make_path(path, interior.start, interior.seed, interior)
