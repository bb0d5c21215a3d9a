"""The branches of a study: which cases, what is observed, and how the outcome is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loci.data.cases import Case, make_cases
from loci.data.truth import Truth
from loci.study.rooms.events import score_events
from loci.study.rooms.objects import CaseScore
from loci.study.rooms.scores import (
    LOOP_GROUPS,
    RECALL_GROUPS,
    REPLAY_CHUNKS,
    score_causal,
    score_loop,
    score_recall,
    score_replay,
)
from loci.worlds.rooms.courses import (
    EXPLORE,
    FLAT_COURSES,
    LOOP180,
    LOOP_COURSES,
    RECALL_COURSES,
    Course,
)
from loci.worlds.rooms.events import EVENT_COURSES


@dataclass(frozen=True)
class Branch:
    """One question to a row.

    observe: "out" gives it the whole way out, "first" the first frame. chunks: how many to generate
    at most (None: to the end of the path). groups: the objects that are scored. baselines: whether
    floors and ceilings have an answer. shown: how many of its cases a report shows. geometry: how
    far off depth and poses are that memories are told, a level of `IMPERFECT` ("": exact). world:
    in which rows are played that were trained in it.
    """

    name: str
    split: str
    courses: tuple[Course, ...]
    observe: str
    groups: tuple[str, ...]
    score: Callable[[Truth, np.ndarray], CaseScore]
    chunks: int | None = None
    baselines: bool = True
    shown: int = 0
    geometry: str = ""
    world: str = "rooms"

    def cases(self, count: int, study_seed: int) -> tuple[Case, ...]:
        """Its cases; branches of the same split and courses share them."""
        return make_cases(self.split, self.courses, count, study_seed)

    def frames(self, chunk: int) -> int | None:
        """Where its episodes are cut."""
        return None if self.chunks is None else 1 + self.chunks * chunk


BRANCHES: dict[str, Branch] = {
    b.name: b
    for b in (
        Branch("replay", "heldout", (EXPLORE, LOOP180), "first", (), score_replay, REPLAY_CHUNKS),
        Branch("recall", "heldout", RECALL_COURSES, "out", RECALL_GROUPS, score_recall,
               shown=len(RECALL_COURSES)),
        Branch("causal", "heldout", RECALL_COURSES, "out", RECALL_GROUPS, score_causal,
               baselines=False),
        Branch("loop", "heldout", LOOP_COURSES, "first", LOOP_GROUPS, score_loop,
               shown=len(LOOP_COURSES)),
        Branch("open-recall", "open", RECALL_COURSES, "out", RECALL_GROUPS, score_recall, shown=2),
        Branch("open-loop", "open", LOOP_COURSES, "first", LOOP_GROUPS, score_loop),
        Branch("events", "heldout", EVENT_COURSES, "out", (), score_events, shown=5),
        *(
            Branch(f"off-{level}", "heldout", RECALL_COURSES, "out", RECALL_GROUPS, score_recall,
                   geometry=level, shown=2)
            for level in ("stated", "drift")
        ),
        Branch("flats", "heldout", FLAT_COURSES, "out", RECALL_GROUPS, score_recall, shown=5,
               world="flats"),
    )
}
# What a study plays that names no branches: rooms in which nothing happens, known exactly.
STILL = ("replay", "recall", "causal", "loop", "open-recall", "open-loop")
GEOMETRY = ("recall", "loop", "open-recall", "events", "off-stated", "off-drift", "flats", "causal")
