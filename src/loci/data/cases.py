"""Which rooms and paths a study looks at, and which noise: the same for every row.

A case is a room, or a flat, and a course through it. Its room and its noise follow from the study's
seed, the case and the chunk, never from the row, the batch or the time of day. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from loci.errors import LociError
from loci.seeds import seed_for
from loci.worlds.rooms.courses import Course


@dataclass(frozen=True)
class Case:
    """Room or flat `seed` of `split`, seen along `course`, which says which of the two."""

    split: str
    seed: int
    course: Course

    @property
    def key(self) -> str:
        """The name of the case, and of its noise."""
        return f"{self.split}/{self.course.name}/{self.seed}"


def make_cases(
    split: str, courses: tuple[Course, ...], count: int, study_seed: int = 0
) -> tuple[Case, ...]:
    """`count` cases in rooms that belong to the study's seed, the courses taking turns.

    Raises LociError for a count below one or a negative seed.
    """
    if count < 1:
        raise LociError(f"{count} cases show nothing; ask for 1 or more")
    if study_seed < 0:
        raise LociError(f"seed {study_seed} is negative; give 0 or more")
    # 31 bits keep the room's number short enough to be read and typed.
    return tuple(
        Case(split, seed_for(study_seed, "room", split, n) >> 32, courses[n % len(courses)])
        for n in range(count)
    )
