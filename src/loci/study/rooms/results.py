"""From the scores of single cases to the tables of a study of rooms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from loci.study.estimates import NOTHING, Estimate, Tally, bootstrap, paired_bootstrap, shown
from loci.study.rooms.objects import SHARES, CaseScore
from loci.study.rooms.rollouts import MEMORIES
from loci.study.tables import Grid, Line

Scores = Mapping[str, Mapping[str, Sequence[CaseScore]]]
"""branch -> row -> one score a case, in the order of the branch's cases."""
Cells = dict[str, dict[str, float | int]]
"""metric -> {mean, lo, hi, n}."""

FLOOR = "none"
# Beside every PSNR, what is printed to a tenth: decibels and degrees.
TENTHS = ("pair_margin", "where", "turn")

# (branch, metric, heading): what the table on the console and the one of the report show.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("recall", "identity_later", "ident.\nlater"), ("recall", "identity_first", "ident.\nfirst"),
    ("recall", "layout_later", "layout\nlater"), ("recall", "psnr_seen", "PSNR\nseen"),
    ("recall", "psnr_revealed", "PSNR\nnew"), ("loop", "pair_psnr", "pairs\nPSNR"),
    ("loop", "pair_margin", "pairs\nmargin"), ("open-recall", "identity_later", "open\nident."),
    ("open-recall", "psnr_seen", "open\nPSNR"),
)
# (branch, metric): what each branch ranks memories by.
RANKED = (
    ("replay", "psnr"), ("recall", "identity_later"), ("loop", "pair_psnr"),
    ("open-recall", "identity_later"),
)


def is_share(metric: str) -> bool:
    """Whether a metric counts hits among trials."""
    return metric.startswith(SHARES)


def aggregate(scores: Scores) -> dict[str, dict[str, Cells]]:
    """rows -> branch -> metric -> {mean, lo, hi, n}; a metric without a trial is left out."""
    table: dict[str, dict[str, Cells]] = {}
    for branch, rows in scores.items():
        for row, cases in rows.items():
            found = {
                name: bootstrap(values, share=is_share(name))
                for name, values in columns(cases).items()
            }
            if branch == "causal":
                found |= _causal_gains(cases)
            table.setdefault(row, {})[branch] = _plain(found)
    return table


def gains(scores: Scores, rows: Sequence[str]) -> dict[str, dict[str, Cells]]:
    """The same tree for the differences row - none, cases paired; empty without the row none."""
    table: dict[str, dict[str, Cells]] = {}
    for branch, all_rows in scores.items():
        if FLOOR not in all_rows:
            continue
        floor = columns(all_rows[FLOOR])
        for row in rows:
            if row == FLOOR or row not in all_rows:
                continue
            ours = columns(all_rows[row])
            found = {n: paired_bootstrap(ours[n], floor[n]) for n in ours if n in floor}
            table.setdefault(row, {})[branch] = _plain(found)
    return table


def rankings(
    rows: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], names: Sequence[str]
) -> dict[str, float]:
    """"branch / branch" -> Spearman's correlation of the means of the rows `names` (of what
    `aggregate` gives), by the metrics of `RANKED`: 1 where both rank the memories alike. Branches
    that not all rows have, and in which all are equal, are left out; so are fewer than three rows.
    """
    from scipy.stats import spearmanr

    means = {
        branch: [rows[name][branch][metric]["mean"] for name in names]
        for branch, metric in RANKED
        if all(metric in rows[name].get(branch, {}) for name in names)
    }
    ranked = [branch for branch, values in means.items() if len(names) > 2 and len({*values}) > 1]
    return {
        f"{one} / {other}": round(float(spearmanr(means[one], means[other]).statistic), 3)
        for one, other in combinations(ranked, 2)
    }


def columns(cases: Sequence[CaseScore]) -> dict[str, list[Tally]]:
    """The cases' tallies by metric."""
    names = dict.fromkeys(name for case in cases for name in case.metrics)
    return {name: [c.metrics.get(name, Tally(0.0, 0)) for c in cases] for name in names}


def _causal_gains(cases: Sequence[CaseScore]) -> dict[str, Estimate | None]:
    """What true memory adds to empty and to wrong-room memory, cases paired."""
    found = columns(cases)
    true = f"_{MEMORIES[0]}"
    return {
        f"gain_{name.removesuffix(true)}_over_{other}": paired_bootstrap(
            found[name], found[name.removesuffix(true) + f"_{other}"]
        )
        for name in found
        if name.endswith(true)
        for other in MEMORIES[1:]
    }


def _plain(found: Mapping[str, Estimate | None]) -> Cells:
    return {name: e.to_dict() for name, e in found.items() if e is not None}


def cell(metric: str, score: Mapping[str, Any] | None, interval: bool = True) -> str:
    """A score as it is printed: shares in per cent, the rest with its own precision."""
    if is_share(metric):
        return shown(score, ".0f", 100, interval)
    return shown(score, ".1f" if "psnr" in metric or metric in TENTHS else ".2f", 1, interval)


def table(results: Mapping[str, Any]) -> Grid:
    """The key columns of a study's results, floors first, ceilings last."""
    rows, protocol, cost = results["rows"], results["protocol"], results["cost"]
    there = [c for c in COLUMNS if any(c[1] in rows[r].get(c[0], {}) for r in rows)]
    grid = Grid(
        f"{protocol['study']}: {protocol['case_count']} cases a branch, seed {protocol['seed']}; "
        "mean and 95 % interval; identity and layout in %, chance 12.5 and 9",
        ["row", *(heading for *_, heading in there), *(["tok.\nat 40"] if cost else [])],
        stacked=True,
    )
    for row, branches in rows.items():
        cells = [cell(metric, branches.get(branch, {}).get(metric)) for branch, metric, _ in there]
        if cost:
            cells.append(str(cost[row]["tokens"]) if row in cost else NOTHING)
        grid.lines.append(Line(row, cells, kind_of(row, protocol)))
    return grid


def kind_of(row: str, protocol: Mapping[str, Any]) -> str:
    """Whether a row is one of reference."""
    if row in protocol.get("floors", ()):
        return "floor"
    return "ceiling" if row in protocol.get("ceilings", ()) else "row"
