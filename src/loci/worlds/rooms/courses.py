"""Courses through a room: named paths, possibly cut."""

from __future__ import annotations

from dataclasses import dataclass


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

# On which an observer looks out and back, and on which everything is generated.
RECALL_COURSES = (LOOP180, LOOP360, WALK, EXPLORE, CIRCLE)
LOOP_COURSES = (LEFT45, RIGHT45, LOOP180, WALK)
