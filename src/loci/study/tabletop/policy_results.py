"""From episodes of policies to results: differences of rows, and a table for a console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from loci.study.estimates import Estimate, Tally, paired_bootstrap, wilson

# Whose difference is asked about, and from whom.
OURS, OTHERS = "hybrid", ("window", "full")


def difference(ours: Sequence[bool], theirs: Sequence[bool]) -> Estimate:
    """The difference of two shares of success over the same episodes, with a 95 % interval.

    Episodes are resampled in pairs (percentile bootstrap). Where every pair differs by the same d,
    resampling has no spread and would claim certainty: then, with Wilson's bound on the share of
    pairs that do, the others may be anything (ours).
    """
    found = paired_bootstrap([Tally(hit) for hit in ours], [Tally(hit) for hit in theirs])
    if found is None or found.lo < found.hi:
        return found or Estimate(0.0, -1.0, 1.0, 0)
    other = 1 - wilson(len(ours), len(ours))[0]
    lo, hi = (found.mean + other * (end - found.mean) for end in (-1, 1))
    return Estimate(found.mean, lo, hi, found.n)


def differences(
    successes: Mapping[str, Mapping[str, Sequence[bool]]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """hold -> "hybrid - window" -> {mean, lo, hi, n}, from row -> hold -> success by episode."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for hold, ours in successes.get(OURS, {}).items():
        found[hold] = {
            f"{OURS} - {other}": difference(ours, successes[other][hold]).to_dict()
            for other in OTHERS
            if other in successes
        }
    return found


def last_stage(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rate of the last stage among the episodes that reached the one before: was what memory
    alone can tell right, where the hands came that far?"""
    return list(summary["stages"].values())[-1]["given"]


def percent(rate: Mapping[str, Any]) -> str:
    """A rate, or a mean, in per cent with its interval."""
    value = rate.get("rate", rate.get("mean"))
    if value is None:
        return "–"
    low, high = 100 * rate["lo"], 100 * rate["hi"]
    return f"{100 * value:.0f} [{low:.0f}, {high:.0f}]"


def console_table(results: Mapping[str, Any]) -> Table:
    """Tasks and rows, floors first and the ceiling last: success and what was right, by hold."""
    protocol = results["protocol"]
    holds = [str(hold) for hold in protocol["holds"]]
    table = Table(
        title=f"{protocol['study']}: {protocol['case_count']} episodes, seed {protocol['seed']}; "
        "% with 95 % intervals\nhold: how many times as long as in training; right: of those that "
        "came so far",
        title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )
    table.add_column("task, row", no_wrap=True)
    for what in ("success", "right"):
        for hold in holds:
            table.add_column(f"{what}\nhold {hold}", justify="right", no_wrap=True)
    for task, rows in results["success"].items():
        chance = protocol["tasks"][task]["chance"]
        table.add_row(task, *[""] * 2 * len(holds), style="bold")
        baselines = results["baselines"][task]
        for name in protocol["floors"]:
            shown = [percent(baselines[hold][name]) for hold in holds]
            table.add_row(f"  {name}", *shown, *[""] * len(holds), style="dim")
        table.add_row("  chance", *[f"{100 * chance:.0f}"] * len(holds), style="dim")
        for row, by_hold in rows.items():
            shown = [percent(by_hold[hold]["success"]) for hold in holds]
            right = [percent(last_stage(by_hold[hold])) for hold in holds]
            table.add_row(f"  {row}", *shown, *right)
        for name in protocol["ceilings"]:
            shown = [percent(baselines[hold][name]) for hold in holds]
            table.add_row(f"  {name}", *shown, *[""] * len(holds), style="dim")
        table.add_section()
    return table
