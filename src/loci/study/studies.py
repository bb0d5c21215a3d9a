"""The studies by name, as `loci study` runs them: of the rooms' world models, and of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from loci.errors import LociError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of a study. None: all of them, or the study's own number of cases."""

    rows: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    cases: int | None = None
    seed: int = 0
    from_scratch: bool = False
    finished: bool = False


@dataclass(frozen=True)
class RoomsStudy:
    """One of `loci.study.study`: world models of the rooms."""

    name: str

    def run(self, out: Path, asked: Asked) -> dict[str, Any]:
        from loci.study.study import CASES, run_study

        if asked.tasks is not None:
            raise LociError(f"--tasks is not for {self.name}; leave it out")
        if asked.finished:
            raise LociError(f"--finished is not for {self.name}; name its finished --rows")
        cases = CASES if asked.cases is None else asked.cases
        return run_study(self.name, out, asked.rows, cases, asked.seed, asked.from_scratch)

    def table(self, results: dict[str, Any], intervals: bool) -> Table:
        from loci.study.results import console_table

        return console_table(results, intervals)


@dataclass(frozen=True)
class PolicyStudy:
    """That of `loci.study.tabletop.policy_study`: policies at the tabletop's tasks."""

    name: str

    def run(self, out: Path, asked: Asked) -> dict[str, Any]:
        from loci.study.tabletop.policy_study import CASES, run_policies

        if asked.from_scratch:
            raise LociError(
                f"--from-scratch is not for {self.name}, which trains all rows; leave it out"
            )
        cases = CASES if asked.cases is None else asked.cases
        return run_policies(out, asked.rows, asked.tasks, cases, asked.seed, asked.finished)

    def table(self, results: dict[str, Any], intervals: bool) -> Table:
        from loci.study.tabletop.policy_results import console_table

        return console_table(results)


def find_study(name: str) -> RoomsStudy | PolicyStudy:
    """The study of that name; LociError for an unknown one."""
    from loci.study.study import STUDIES
    from loci.study.tabletop.policy_study import NAME

    if name == NAME:
        return PolicyStudy(name)
    if name not in STUDIES:
        raise LociError(f"unknown study '{name}'{did_you_mean(name, (*STUDIES, NAME))}")
    return RoomsStudy(name)
