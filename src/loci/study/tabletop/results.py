"""From the episodes of policies to results: rates, differences of rows, tables for a console."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loci.study.estimates import Estimate, paired_shares

# Whose difference is asked about, and from whom.
OURS, OTHERS = "hybrid", ("window", "full")
Lines = Sequence[Mapping[str, Any]]


def rate(hits: int, of: int) -> dict[str, Any]:
    """A share in JSON, with Wilson's 95 % interval; `rate` is None where there was no trial."""
    found = Estimate.of_hits(hits, of) if of else Estimate(0.0, 0.0, 1.0, 0)
    return {
        "hits": hits, "of": of, "rate": found.mean if of else None, "lo": found.lo, "hi": found.hi,
    }


def summarise(lines: Lines) -> dict[str, Any]:
    """Rates: success; every stage among all episodes, and among those that had reached the stage
    before. Kinds of failure, and the median number of chunks."""
    stages: dict[str, Any] = {}
    before = list(lines)
    for name in lines[0]["stages"] if lines else ():
        reached = [line for line in lines if line["stages"].get(name)]
        given = sum(bool(line["stages"].get(name)) for line in before)
        stages[name] = {"all": rate(len(reached), len(lines)), "given": rate(given, len(before))}
        before = reached
    failures = Counter(line["failure"] for line in lines if not line["success"])
    return {
        "episodes": len(lines), "success": rate(sum(line["success"] for line in lines), len(lines)),
        "stages": stages, "failures": dict(failures.most_common()),
        "chunks": float(np.median([line["chunks"] for line in lines])),
    }


def differences(played: Mapping[str, Lines]) -> dict[str, dict[str, float | int]]:
    """"hybrid - window" -> {mean, lo, hi, n}, of success over the same episodes, row -> lines."""
    successes = {row: [line["success"] for line in lines] for row, lines in played.items()}
    return {
        f"{OURS} - {other}": paired_shares(successes[OURS], successes[other]).to_dict()
        for other in OTHERS if other in successes
    }


def last_stage(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rate of the last stage among the episodes that reached the one before: was what memory
    alone can tell right, where the hands came that far?"""
    return list(summary["stages"].values())[-1]["given"]
