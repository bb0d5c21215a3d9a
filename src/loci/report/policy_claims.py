"""What the study of policies set out to show, and whether its numbers do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loci.report.claims import Claim
from loci.study.tabletop.policy_results import OURS, percent

AIM = 95  # per cent of the episodes
AHEAD = 70  # points over a window alone
WINDOW, FULL = "window", "full"


def policy_claims(results: Mapping[str, Any]) -> list[Claim]:
    """Every expectation that the rows of the study can answer, for each task and hold.

    results: what results.json holds. Counts are compared, so that a threshold is met exactly.
    """
    return [
        claim
        for task, rows in results["success"].items()
        if OURS in rows
        for hold in rows[OURS]
        for claim in _claims(results, task, hold)
    ]


def _claims(results: Mapping[str, Any], task: str, hold: str) -> Iterator[Claim]:
    found = {row: by_hold[hold]["success"] for row, by_hold in results["success"][task].items()}
    ours = found[OURS]
    where = task if hold == "1" else f"{task}, fact held {hold} times as long"
    yield Claim(
        f"{where}: {OURS} succeeds in {AIM} % or more",
        100 * ours["hits"] >= AIM * ours["of"],
        f"{percent(ours)} %, {ours['hits']} of {ours['of']}",
    )
    if FULL in found:
        full = found[FULL]
        yield Claim(
            f"{where}: {OURS} is within the interval of {FULL}, or above it",
            ours["rate"] >= full["lo"],
            f"{percent(ours)} % against {percent(full)} %: "
            f"{_difference(results, task, hold, FULL)}",
        )
    if WINDOW in found:
        window = found[WINDOW]
        yield Claim(
            f"{where}: {OURS} is {AHEAD} points or more above {WINDOW}",
            100 * (ours["hits"] - window["hits"]) >= AHEAD * ours["of"],
            f"{percent(ours)} % against {percent(window)} %: "
            f"{_difference(results, task, hold, WINDOW)}",
        )


def _difference(results: Mapping[str, Any], task: str, hold: str, other: str) -> str:
    found = results["differences"][task][hold][f"{OURS} - {other}"]
    return f"{percent(found)} points"
