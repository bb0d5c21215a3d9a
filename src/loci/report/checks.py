"""What a study was meant to show (`targets.json`), and whether its numbers do.

A target is a comparison of two terms; a term is a number, a path into the results ("rows/hybrid/
recall/identity_later/lo"), or a difference or a quotient of two paths. "pairs/A/B/branch/metric" is
the difference of two rows over the same cases.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from loci.study.estimates import Tally, paired_bootstrap, percent
from loci.study.rooms.results import cell

OPERATORS = {
    "<=": operator.le, ">=": operator.ge, ">": operator.gt,
    "-": operator.sub, "/": operator.truediv,
}
DIGITS = 9  # to which terms are compared: a threshold that is met exactly is met


@dataclass(frozen=True)
class Check:
    """One target. `holds` is the verdict on these cases, `numbers` what it rests on."""

    text: str
    holds: bool
    numbers: str


def checks(results: Mapping[str, Any], cases: Mapping[str, Any]) -> list[Check]:
    """Every target of the study that its rows can answer.

    results: what results.json holds; cases: what cases.json holds, or nothing.
    """
    found = []
    file = Path(__file__).with_name("targets.json")
    for studies, told in json.loads(file.read_text(encoding="utf-8")).items():
        if results["protocol"]["study"] not in studies.split():
            continue
        for text, rule in told["targets"]:
            names = [name for name in told["rows"] if f"{{{name}}}" in text + rule]
            for values in product(*(told["rows"][name] for name in names)):
                given = dict(zip(names, values, strict=True))
                terms = [_term(t, results, cases) for t in rule.format(**given).split()]
                if None not in terms:
                    found.append(_verdict(text.format(**given), terms))
    return found


def _term(text: str, results: Mapping[str, Any], cases: Mapping[str, Any]) -> Any:
    """An operator, or a number and what is to be said of it; None where it is not there."""
    if text in OPERATORS:
        return text
    *path, name = text.split("/")
    if not path:
        return float(text), ""
    estimate: Any = results
    if path[0] == "pairs":
        _, ours, theirs, branch, metric = path
        scored = [cases.get(branch, {}).get(row, {}).values() for row in (ours, theirs)]
        if not all(scored):
            return None
        a, b = ([Tally(*case["metrics"][metric]) for case in row] for row in scored)
        found = paired_bootstrap(a, b)
        estimate = {} if found is None else found.to_dict()
    for step in path * (path[0] != "pairs"):
        estimate = estimate.get(step, {})
    if estimate.get(name) is None:
        return None
    if "hits" in estimate:
        return estimate[name], f"{percent(estimate)} %, {estimate['hits']} of {estimate['of']}"
    known = "mean" in estimate
    return estimate[name], cell(path[-1], estimate) if known else f"{estimate[name]:,}"


def _verdict(text: str, terms: list[Any]) -> Check:
    """The verdict on "a [-/] b <= c"."""
    *left, compare, (right, _) = terms
    value = OPERATORS[left[1]](left[0][0], left[2][0]) if len(left) == 3 else left[0][0]
    said = dict.fromkeys(t[1] for t in terms if not isinstance(t, str) and t[1])
    holds = OPERATORS[compare](round(value, DIGITS), round(right, DIGITS))
    return Check(text, holds, " and ".join(said))
