"""Write the tables of results into the pages that show them: python docs/write_tables.py

Between `<!-- table: NAME -->` and `<!-- end -->` stands what `results/` holds, and nothing that was
typed. A test holds the pages to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from loci.evaluation.policy_results import percent
from loci.evaluation.results import FLOOR, cell

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/study.md")
SPOT = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOTHING = "–"
REFERENCES = {
    "mean-image": "mean image (floor)", "first-frame": "first frame repeated (floor)",
    FLOOR: f"`{FLOOR}` (floor)", "codec": "codec (ceiling)",
}
# Of the study of policies: names without memory and the expert, as its table calls them.
HANDS = {
    "blind": "blind guess", "last-frame-only": "last frame only",
    "clock and frame": "clock and last frame", "oracle-state": "the expert, who knows",
}

Results = Mapping[str, Any]
# A heading, and what stands below it for a row.
Column = tuple[str, Callable[[Results, str], str]]


def score(heading: str, branch: str, metric: str) -> Column:
    """A metric of a branch with its interval."""
    return heading, lambda results, row: cell(metric, results["rows"][row][branch].get(metric))


def held(heading: str, name: str, unit: int = 1) -> Column:
    """What a row holds."""

    def show(results: Results, row: str) -> str:
        costs = results["cost"].get(row)
        return NOTHING if costs is None else f"{costs[name] / unit:,.0f}"

    return heading, show


def _written(results: Results, row: str) -> str:
    return cell("which_later", results["probe"].get(row, {}).get("which_later"))


def _added(results: Results, row: str) -> str:
    rows = results["protocol"]["rows"]
    if row not in rows:
        return NOTHING
    return f"{rows[row]['parameters'] - rows[FLOOR]['parameters']:,}"


def _milliseconds(results: Results, row: str) -> str:
    found = results["protocol"]["wall"]["milliseconds_per_chunk"].get(row)
    return NOTHING if found is None else f"{found:.0f}"


LATER = score("identity, later objects, %", "recall", "identity_later")
FIRST = score("identity, first objects, %", "recall", "identity_first")
SEEN = score("PSNR, pixels seen before, dB", "recall", "psnr_seen")
PAIRS = score("PSNR, mirrored pairs (loop), dB", "loop", "pair_psnr")
OPEN = score("identity, open domain, %", "open-recall", "identity_later")
WRITTEN: Column = ("written: which, later, %", _written)


def ground() -> str:
    results = _results("ground")
    tokens = held("tokens at 40 frames", "tokens")
    return _studied(results, results["rows"], (LATER, FIRST, SEEN, PAIRS, OPEN, tokens))


def families() -> str:
    results = _results("families")
    columns = (
        score("replay PSNR, dB", "replay", "psnr"), _short(LATER, "identity, later, %"),
        _short(SEEN, "PSNR, seen, dB"), _short(PAIRS, "pairs, dB"),
        _short(OPEN, "identity, open, %"), WRITTEN, ("parameters added", _added),
        held("kB at 40 frames", "bytes", 1000), held("kB at 400", "bytes_at_400", 1000),
        ("ms a chunk", _milliseconds),
    )
    return _studied(results, [row for row in results["rows"] if row != "first-frame"], columns)


def returns() -> str:
    results = _results("returns")
    rows = [row for row in results["protocol"]["rows"] if row != FLOOR]
    columns = (
        _short(LATER, "identity, later, %"), _short(FIRST, "identity, first, %"),
        _short(SEEN, "PSNR, seen, dB"), _short(PAIRS, "pairs, dB"),
        _short(OPEN, "identity, open, %"), WRITTEN,
    )
    return _studied(results, rows, columns)


def policies() -> str:
    """Tasks side by side; rows without a number at any of them are not there."""
    results = _results("wam")
    tasks, protocol = list(results["success"]), results["protocol"]
    holds = [str(hold) for hold in protocol["holds"]]
    heads = [head for task in tasks for head in (task, f"held {holds[-1]} times")]

    def line(name: str, found: Callable[[str, str], Mapping[str, Any] | None]) -> list[str]:
        shown = [found(task, hold) for task in tasks for hold in holds]
        return [name, *(NOTHING if rate is None else percent(rate) for rate in shown)]

    def hands(name: str) -> list[str]:
        return line(HANDS[name], lambda task, hold: results["baselines"][task][hold][name])

    def played(row: str) -> list[str]:
        def found(task: str, hold: str) -> Mapping[str, Any] | None:
            by_hold = results["success"][task].get(row)
            return None if by_hold is None else by_hold[hold]["success"]

        return line(f"`{row}`", found)

    floors = [hands(name) for name in HANDS if name in protocol["floors"]]
    ceilings = [hands(name) for name in HANDS if name in protocol["ceilings"]]
    return _table(["", *heads], [*floors, *map(played, protocol["rows"]), *ceilings])


TABLES = {"ground": ground, "families": families, "returns": returns, "policies": policies}


def filled(text: str) -> str:
    """A page with its tables as the results are."""
    return SPOT.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def _results(study: str) -> dict[str, Any]:
    return json.loads((ROOT / "results" / study / "results.json").read_text())


def _short(column: Column, heading: str) -> Column:
    return heading, column[1]


def _studied(results: Results, rows: Iterable[str], columns: Iterable[Column]) -> str:
    columns = list(columns)
    lines = [
        [REFERENCES.get(row, f"`{row}`"), *(show(results, row) for _, show in columns)]
        for row in rows
        if row != "ground-truth"
    ]
    return _table(["row", *(heading for heading, _ in columns)], lines)


def _table(heads: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] * len(heads)
    rows = [f"| {' | '.join(line)} |" for line in (heads, *lines)]
    return "\n".join([rows[0], f"|{'|'.join(rule)}|", *rows[1:]]).replace("|  |", "| |") + "\n"


def main() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            (ROOT / page).write_text(new, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
