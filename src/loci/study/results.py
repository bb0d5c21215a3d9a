"""From scores of single cases to a table: means, intervals, gains over the floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from loci.study.estimates import Estimate, Tally, bootstrap, paired_bootstrap
from loci.study.rooms.objects import SHARES, CaseScore
from loci.study.rooms.recall import MEMORIES

Scores = Mapping[str, Mapping[str, Sequence[CaseScore]]]
"""branch -> row -> one score a case, in the order of the branch's cases."""

FLOOR = "none"
# Beside every PSNR, what is printed to a tenth: decibels and degrees.
TENTHS = ("pair_margin", "where", "turn")

# (branch, metric, heading): what the table on the console and the one of the report show.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("recall", "identity_later", "ident.\nlater"),
    ("recall", "identity_first", "ident.\nfirst"),
    ("recall", "layout_later", "layout\nlater"),
    ("recall", "psnr_seen", "PSNR\nseen"),
    ("recall", "psnr_revealed", "PSNR\nnew"),
    ("loop", "pair_psnr", "pairs\nPSNR"),
    ("loop", "pair_margin", "pairs\nmargin"),
    ("open-recall", "identity_later", "open\nident."),
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


def aggregate(scores: Scores) -> dict[str, dict[str, dict[str, dict[str, float | int]]]]:
    """rows -> branch -> metric -> {mean, lo, hi, n}; a metric without a trial is left out."""
    table: dict[str, dict[str, dict[str, dict[str, float | int]]]] = {}
    for branch, rows in scores.items():
        for row, cases in rows.items():
            found = {
                name: bootstrap(values, share=is_share(name))
                for name, values in _columns(cases).items()
            }
            if branch == "causal":
                found |= _causal_gains(cases)
            table.setdefault(row, {})[branch] = _plain(found)
    return table


def gains(
    scores: Scores, rows: Sequence[str]
) -> dict[str, dict[str, dict[str, dict[str, float | int]]]]:
    """The same tree for the differences row - none, cases paired; empty without the row none."""
    table: dict[str, dict[str, dict[str, dict[str, float | int]]]] = {}
    for branch, all_rows in scores.items():
        if FLOOR not in all_rows:
            continue
        floor = _columns(all_rows[FLOOR])
        for row in rows:
            if row == FLOOR or row not in all_rows:
                continue
            ours = _columns(all_rows[row])
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


def _columns(cases: Sequence[CaseScore]) -> dict[str, list[Tally]]:
    """The cases' tallies by metric."""
    names = dict.fromkeys(name for case in cases for name in case.metrics)
    return {name: [c.metrics.get(name, Tally(0.0, 0)) for c in cases] for name in names}


def _causal_gains(cases: Sequence[CaseScore]) -> dict[str, Estimate | None]:
    """What true memory adds to empty and to wrong-room memory, cases paired."""
    columns = _columns(cases)
    true = f"_{MEMORIES[0]}"
    return {
        f"gain_{name.removesuffix(true)}_over_{other}": paired_bootstrap(
            columns[name], columns[name.removesuffix(true) + f"_{other}"]
        )
        for name in columns
        if name.endswith(true)
        for other in MEMORIES[1:]
    }


def _plain(found: Mapping[str, Estimate | None]) -> dict[str, dict[str, float | int]]:
    return {name: e.to_dict() for name, e in found.items() if e is not None}


def cell(metric: str, score: Mapping[str, Any] | None, interval: bool = True) -> str:
    """A score as it is printed: shares in per cent, the rest with its own precision."""
    if score is None:
        return "–"
    scale, form = (100, ".0f") if is_share(metric) else (1, _form(metric))
    text = format(scale * score["mean"], form)
    if interval:
        lo, hi = format(scale * score["lo"], form), format(scale * score["hi"], form)
        text += f" [{lo}, {hi}]"
    return text


def _form(metric: str) -> str:
    return ".1f" if "psnr" in metric or metric in TENTHS else ".2f"


def console_table(results: Mapping[str, Any], intervals: bool = True) -> Table:
    """The key columns of a study's results, floors first, ceilings last.

    With intervals it is about 150 characters wide, without them about 80.
    """
    rows = results["rows"]
    shown = [c for c in COLUMNS if any(c[1] in rows[r].get(c[0], {}) for r in rows)]
    protocol = results["protocol"]
    what = "mean and 95 % interval" if intervals else "means (intervals: in the report)"
    table = Table(
        title=f"{protocol['study']}: {protocol['case_count']} cases a branch, seed "
        f"{protocol['seed']}; {what}; identity and layout in %, chance 12.5 and 9",
        title_justify="left", box=SIMPLE_HEAD, padding=(0, 1) if intervals else (0, 0),
    )
    table.add_column("row", no_wrap=True)
    for _, _, heading in shown:
        table.add_column(heading, justify="right")
    if results["cost"]:
        table.add_column("tok.\nat 40", justify="right")
    for row, branches in rows.items():
        cells = [
            cell(metric, branches.get(branch, {}).get(metric), intervals).replace(" [", "\n[")
            for branch, metric, _ in shown
        ]
        if results["cost"]:
            cells.append(str(results["cost"][row]["tokens"]) if row in results["cost"] else "–")
        table.add_row(row, *cells)
    return table
