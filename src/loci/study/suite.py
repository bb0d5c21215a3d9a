"""A suite: entries that are played under conditions, and what is made of their scores.

Studies, probes, closed loops and benchmarks are suites of one engine (`run.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from loci.errors import LociError, did_you_mean
from loci.io.progress import Progress
from loci.study.entry import Entry, Variant
from loci.study.store import Store
from loci.training.numerics import reproducible

Scores = Mapping[str, Mapping[str, Any]]
"""condition -> row -> what was scored there, in the order of a table."""


class Suite:
    """What the engine asks of a suite.

    asked, tasks: the names of its rows, and of its tasks, if it has some. variants: what must be
    trained, or ship, before anything is played; they become its entries (`admit`). trains: whether
    it trains those that do not ship; minutes: about how long one takes on two cores. conditions:
    played in this order. work: what the progress counts, over all conditions.
    """

    name: str
    cases = 0
    seed = 0
    asked: Sequence[str] = ()
    tasks: Sequence[str] = ()
    variants: Sequence[Variant] = ()
    trains = True
    minutes = 15
    conditions: Sequence[str] = ()

    @property
    def work(self) -> int:
        raise NotImplementedError

    def admit(self, entries: Mapping[str, Entry], store: Store) -> None:
        """Take these entries, by name. LociError where they cannot be compared."""
        raise NotImplementedError

    def seconds(self, store: Store) -> float:
        """About how long two cores take to play what is missing, also of variants that are not
        trained yet."""
        raise NotImplementedError

    def play(self, condition: str, store: Store, progress: Progress) -> dict[str, Any]:
        """The scores of every row under a condition, as they are kept, or made now and kept."""
        raise NotImplementedError

    def results(self, scores: Scores, store: Store) -> dict[str, Any]:
        """What results.json holds: `protocol`, and the tables."""
        raise NotImplementedError

    def files(self, scores: Scores) -> dict[str, Any]:
        """What else is written beside results.json: name -> JSON."""
        return {}

    def arithmetic(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """The mode in which torch computes."""
        return reproducible(device)


def chosen(study: str, what: str, names: Iterable[str] | None, known: Iterable[str]) -> list[str]:
    """Those of `known` that are named, in its order; None names all. LociError for an unknown one.
    """
    known, names = list(known), None if names is None else list(names)
    for name in names or ():
        if name not in known:
            raise LociError(f"study '{study}' has no {what} '{name}'{did_you_mean(name, known)}")
    if names == []:
        raise LociError(f"no {what} is named; name some of {', '.join(known)}")
    return known if names is None else [name for name in known if name in names]


def counted(cases: int, seed: int, most: int) -> None:
    """LociError for a number of cases, or a seed, that no suite has."""
    if cases < 1:
        raise LociError(f"{cases} cases show nothing; ask for 1 or more")
    if cases > most:
        raise LociError(f"{cases:,} cases are more than a study holds; ask for {most:,} at most")
    if seed < 0:
        raise LociError(f"seed {seed} is negative; give 0 or more")
