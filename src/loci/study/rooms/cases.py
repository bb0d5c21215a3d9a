"""Which rooms and paths a study looks at, and which noise: the same for every row.

A case is a room and a course through it. Its room and its noise follow from the study's seed, the
case and the chunk, never from the row, the batch or the time of day. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loci.errors import LociError
from loci.seeds import seed_for


@dataclass(frozen=True)
class Course:
    """A named path, possibly cut: the first `frames` frames, of which `out` are the way out.

    None takes the path's own. The half circle below is the course on which something new appears
    on the way "back": the other named paths retrace themselves exactly.
    """

    name: str
    path: str
    frames: int | None = None
    out: int | None = None


LEFT45 = Course("left45-return", "left45-return")
RIGHT45 = Course("right45-return", "right45-return")
LOOP180 = Course("loop180", "loop180")
LOOP360 = Course("loop360", "loop360")
WALK = Course("walk-return", "walk-return")
EXPLORE = Course("explore", "explore")
CIRCLE = Course("circle", "loop360", frames=33, out=17)


@dataclass(frozen=True)
class Case:
    """Room `seed` of `split`, seen along `course`."""

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


def chunk_noise(study_seed: int, key: str, chunk: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (frames, C, h, w) of one chunk of one case, float32 on the CPU."""
    generator = torch.Generator().manual_seed(seed_for(study_seed, "noise", key, chunk))
    return torch.randn(shape, generator=generator)
