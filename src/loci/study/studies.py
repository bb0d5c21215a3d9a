"""The studies by name: which rows they compare, and the question that a report begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loci.errors import LociError, did_you_mean
from loci.memory import ROWS
from loci.recipes.registry import REVISIT
from loci.recipes.tabletop import POLICY_ROWS
from loci.study.rooms.branches import GEOMETRY
from loci.study.rooms.suite import Rooms
from loci.study.run import Plan, plan
from loci.study.suite import Suite, chosen
from loci.study.tabletop.suite import TabletopSuite
from loci.worlds.tabletop.tasks import TASKS


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What is asked of a study. None: all of them, or the study's own number of cases.

    cases: rooms a branch, or episodes. seed: picks the held-out cases. from_scratch: train the
    rows instead of loading the checkpoints that ship. finished: only what is finished. replace:
    whether results in the folder may lose some, or be replaced by those of another seed.
    """

    rows: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    cases: int | None = None
    seed: int = 0
    from_scratch: bool = False
    finished: bool = False
    replace: bool = False


@dataclass(frozen=True)
class Study:
    """A suite by name. rows: all their names, looked up when it is run, so that a row of yours is
    among them. suite: makes it of some of them. tasks: at which rows are compared, if at some."""

    question: str
    rows: Callable[[], Iterable[str]]
    suite: Callable[..., Suite]
    tasks: Mapping[str, Any] | None = None


SHARED = ("none", "context-5", "context-20", "full", "hybrid")
# What only the study of geometry compares.
OF_GEOMETRY = (
    "map", "map-channels", "map-tokens", "map-none", "map-tsdf",
    "working", "episodic", "episodic-cover", "episodic-tokens",
    "spmem", "spmem-tokens", "spmem-joint", "spmem-joint-overlap", "spmem-joint-drop",
    "spmem-no-map", "spmem-no-window", "spmem-no-key-frames", "hybrid-map",
    "context-5-cascade", "context-5-surfels",
    "stated-context-20", "stated-map-channels", "stated-spmem-joint-overlap",
    "flats-none", "flats-context-20", "flats-map-channels", "flats-hybrid-map",
    "flats-spmem-tokens", "flats-spmem-joint-overlap",
    "events-context-20",
)
# What only the study of evidence compares: families as released, and given each other's frames.
OF_EVIDENCE = (
    "released-5", "released-length", "released-grid", "released-scan",
    "joint-1", "length-4-of-4", "grid-of-1", "grid-of-5", "grid-of-20",
    "scan-of-1", "scan-of-5", "scan-of-20",
)

STUDIES = {
    "ground": Study(
        "The camera leaves and comes back: which memory still knows what was there?",
        lambda: ("none", "context-1", "context-5", "context-20", "hybrid"),
        partial(Rooms, trains=False),
    ),
    "families": Study(
        "Only the memory changes: what does each way to remember bring back, and at what cost?",
        lambda: [name for name in ROWS if name not in (*OF_GEOMETRY, *OF_EVIDENCE)],
        partial(Rooms, probes=True),
    ),
    "evidence": Study(
        "The paper gave its families other frames each: what is the memory's, what the frames'?",
        lambda: (
            "none", "joint-5", "joint-20", "full", "length-4", "spatial", "ssm", *OF_EVIDENCE
        ),
        Rooms,
    ),
    "returns": Study(
        "Only the objective changes: what does a memory learn when returns count again?",
        lambda: ("none", "tower", f"{REVISIT}tower", "spatial", f"{REVISIT}spatial"),
        partial(Rooms, probes=True),
    ),
    "geometry": Study(
        "The place is known in space: what do a map, key frames and a window each bring back?",
        lambda: (*SHARED, *OF_GEOMETRY), partial(Rooms, branches=GEOMETRY, renders=True),
    ),
    "wam": Study(
        "Which memory lets a robot act on what it saw?", lambda: POLICY_ROWS, TabletopSuite, TASKS
    ),
}


def plan_study(name: str, out: str | Path, options: StudyOptions | None = None) -> Plan:
    """What is to be made of a study in the folder `out`; `loci.study.run.make` makes it.

    Raises LociError, with nothing written, for an unknown study, for what it does not have, and for
    what would replace other results.
    """
    if name not in STUDIES:
        raise LociError(f"unknown study '{name}'{did_you_mean(name, STUDIES)}")
    study, options = STUDIES[name], options or StudyOptions()
    more: dict[str, Any] = {"seed": options.seed}
    if options.cases is not None:
        more["cases"] = options.cases
    if study.tasks is not None:
        more |= {"tasks": chosen(name, "task", options.tasks, study.tasks),
                 "finished": options.finished}
    elif options.tasks is not None:
        raise LociError(f"--tasks is not for {name}; leave it out")
    elif options.finished:
        raise LociError(f"--finished is not for {name}; name its finished --rows")
    suite = study.suite(name, rows=chosen(name, "row", options.rows, study.rows()), **more)
    return plan(suite, out, options.from_scratch, options.finished, options.replace)
