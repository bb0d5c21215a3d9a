"""A study in three plain sentences, made from its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loci.study.estimates import percent

# Points of identity, or of success, that count as nearly as good.
CLOSE = 0.05
# How many times less memory counts as less.
LESS = 1.1


def of_rooms(results: Mapping[str, Any]) -> Iterator[str]:
    """What the best memory brings back, what that costs, and whether it is memory."""
    rows, cost = results["rows"], results["cost"]
    scores = {
        row: score for row in results["protocol"]["rows"]
        if (score := rows[row].get("recall", {}).get("identity_later")) and row in cost
    }
    if not scores:
        return
    # Of equals, what holds less.
    best = max(scores, key=lambda row: (scores[row]["mean"], -cost[row]["bytes"]))
    worst = min(scores, key=lambda row: scores[row]["mean"])
    apart = "" if worst == best else f"; {worst} shows {percent(scores[worst])}"
    yield (
        "Of 100 objects that were first seen after the first frame, left the view and came back, "
        f"{best} shows the right one {percent(scores[best])} times{apart}. Guessing gives 12.5."
    )
    near = [
        row for row in scores
        if scores[best]["mean"] - scores[row]["mean"] <= CLOSE
        and LESS * cost[row]["bytes"] <= cost[best]["bytes"]
    ] or [best]
    small = min(near, key=lambda row: cost[row]["bytes"])
    held = _bytes(cost[small]["bytes"])
    if small == best:
        yield f"It holds {held} after 40 frames; no row comes within 5 points of it with less."
    else:
        times = cost[best]["bytes"] / max(cost[small]["bytes"], 1)
        yield (
            f"The smallest memory within 5 points of that is {small} ({percent(scores[small])}): "
            f"it holds {held} after 40 frames, {times:.1f} times less than {best}."
        )
    there = rows[best].get("open-recall", {}).get("identity_later")
    wrong = rows[best].get("causal", {}).get("identity_later_wrong")
    said = []
    if there:
        said.append(f"among shapes and colours that training never showed it is {percent(there)}")
    if wrong:
        said.append(f"with another room's frames in memory {percent(wrong)}")
    if said:
        yield f"For {best}, {', and '.join(said)}."


def of_policies(results: Mapping[str, Any]) -> Iterator[str]:
    """Which policy succeeds, what its memory holds, and what longer waits do."""
    protocol, success = results["protocol"], results["success"]
    once, *longer = (str(hold) for hold in protocol["holds"])
    complete = [row for row in protocol["rows"] if all(row in found for found in success.values())]
    if not complete:
        return

    def rate(row: str, hold: str) -> float:
        return sum(found[row][hold]["success"]["rate"] for found in success.values()) / len(success)

    def held(row: str) -> int:
        (_, by_row), *_ = protocol["entries"].items()
        return list(by_row[row]["held"].values())[-1]["bytes"]

    def beside(other: str, said: str) -> str:
        return "." if other == best else f", {said}."

    best = max(complete, key=lambda row: (round(rate(row, once), 2), -held(row)))
    worst, biggest = min(complete, key=lambda row: rate(row, once)), max(complete, key=held)
    many = f"{len(success)} tasks" if len(success) > 1 else "the task"
    yield f"Over {many}, {best} succeeds in {100 * rate(best, once):.0f} of 100 episodes" + beside(
        worst, f"{worst} in {100 * rate(worst, once):.0f}"
    )
    frames = list(next(iter(next(iter(protocol["entries"].values())).values()))["held"])[-1]
    yield f"After {frames} frames one robot's memory in {best} holds {_bytes(held(best))}" + beside(
        biggest, f"{held(biggest) / held(best):.1f} times less than {biggest}"
    )
    for hold in longer:
        top = max(complete, key=lambda row: rate(row, hold))
        yield (
            f"Where a cue must be held {hold} times as long as in training, {best} succeeds in "
            f"{100 * rate(best, hold):.0f} of 100"
        ) + beside(top, f"{top} in {100 * rate(top, hold):.0f}")


def _bytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
