"""What a study set out to show, and whether its numbers do: said in words, with the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loci.report.plots import IDENTITY_CHANCE
from loci.study.estimates import Tally, paired_bootstrap
from loci.study.results import FLOOR, cell

REMEMBERING = ("context-20", "hybrid")
FORGETTING = (FLOOR, "context-1")
LADDER = ("context-1", "context-5", "context-20")
AIM_IDENTITY = 0.9
AIM_GAIN_DB = 6.0
AIM_OPEN = 2 / 3
AIM_TOKENS = 0.25


@dataclass(frozen=True)
class Claim:
    """One expectation. `holds` is the verdict on these cases, `numbers` what it rests on."""

    text: str
    holds: bool
    numbers: str


def claims(results: Mapping[str, Any], cases: Mapping[str, Any]) -> list[Claim]:
    """Every expectation that the rows of this study can answer.

    results: what results.json holds; cases: what cases.json holds.
    """
    rows = results["rows"]
    return [
        *_chance(rows),
        *_above(rows),
        *_aims(rows, results["gains"]),
        *_open(results["gains"]),
        *_ladder(cases),
        *_causal(rows),
        *_frugal(results, cases),
    ]


def _get(rows: Mapping[str, Any], row: str, branch: str, metric: str) -> Mapping[str, float] | None:
    return rows.get(row, {}).get(branch, {}).get(metric)


def _chance(rows: Mapping[str, Any]) -> Iterator[Claim]:
    for row in FORGETTING:
        score = _get(rows, row, "recall", "identity_later")
        if score:
            yield Claim(
                f"{row} does not know objects first seen after the first frame",
                score["lo"] <= IDENTITY_CHANCE,
                f"identity {cell('identity', score)} %, chance 12.5 %",
            )


def _above(rows: Mapping[str, Any]) -> Iterator[Claim]:
    floors = [s for r in FORGETTING if (s := _get(rows, r, "recall", "identity_later"))]
    for row in REMEMBERING:
        score = _get(rows, row, "recall", "identity_later")
        if score and floors:
            yield Claim(
                f"{row} does, and the intervals are apart",
                score["lo"] > max(f["hi"] for f in floors),
                f"identity {cell('identity', score)} %, the best floor's interval ends at "
                f"{100 * max(f['hi'] for f in floors):.0f} %",
            )


def _aims(rows: Mapping[str, Any], gains: Mapping[str, Any]) -> Iterator[Claim]:
    for row in REMEMBERING:
        score = _get(rows, row, "recall", "identity_later")
        gain = _get(gains, row, "recall", "psnr_seen")
        if score:
            yield Claim(
                f"{row} reaches {AIM_IDENTITY:.0%} identity",
                score["mean"] >= AIM_IDENTITY,
                f"{cell('identity', score)} %",
            )
        if gain:
            yield Claim(
                f"{row} gains {AIM_GAIN_DB:.0f} dB over {FLOOR} on pixels seen before",
                gain["mean"] >= AIM_GAIN_DB,
                f"{cell('psnr', gain)} dB",
            )


def _open(gains: Mapping[str, Any]) -> Iterator[Claim]:
    for row in REMEMBERING:
        for metric, unit in (("identity_later", "points"), ("psnr_seen", "dB")):
            here = _get(gains, row, "recall", metric)
            there = _get(gains, row, "open-recall", metric)
            if here and there and here["mean"] > 0:
                kept = there["mean"] / here["mean"]
                name = "identity" if unit == "points" else "PSNR"
                yield Claim(
                    f"{row} keeps two thirds of its {name} gain on things never seen in training",
                    kept >= AIM_OPEN,
                    f"{cell(metric, there)} of {cell(metric, here)} {unit}: {kept:.0%}",
                )


def _ladder(cases: Mapping[str, Any]) -> Iterator[Claim]:
    """Each step up in context, cases paired: it counts where the interval lies above zero."""
    for branch, metric, what in (
        ("recall", "psnr_seen", "PSNR of pixels seen before"),
        ("loop", "pair_psnr", "PSNR of mirrored pairs"),
    ):
        scores = cases.get(branch, {})
        for less, more in pairwise(LADDER):
            if less not in scores or more not in scores:
                continue
            gain = paired_bootstrap(_tallies(scores[more], metric), _tallies(scores[less], metric))
            if gain:
                yield Claim(
                    f"more context is better: {more} over {less}, {what}",
                    gain.lo > 0,
                    f"{cell(metric, gain.to_dict())} dB",
                )


def _causal(rows: Mapping[str, Any]) -> Iterator[Claim]:
    for row in REMEMBERING:
        gain = _get(rows, row, "causal", "gain_identity_later_over_wrong")
        wrong = _get(rows, row, "causal", "identity_later_wrong")
        if gain and wrong:
            yield Claim(
                f"another room's memory takes the gain of {row} away",
                gain["lo"] > 0 and wrong["lo"] <= IDENTITY_CHANCE,
                f"identity {cell('identity', wrong)} % with it, true memory adds "
                f"{cell('identity', gain)} points",
            )


def _frugal(results: Mapping[str, Any], cases: Mapping[str, Any]) -> Iterator[Claim]:
    cost = results["cost"].get("hybrid")
    if not cost:
        return
    share = cost["tokens"] / cost["full_history_tokens"]
    yield Claim(
        f"hybrid holds a quarter of the full history or less at {cost['frames']} frames",
        share <= AIM_TOKENS,
        f"{cost['tokens']} of {cost['full_history_tokens']} tokens: {share:.0%}",
    )
    recall = cases.get("recall", {})
    if "context-20" not in recall:
        return
    for metric, what in (
        ("identity_later", "identity of later objects"), ("psnr_seen", "PSNR on seen pixels"),
    ):
        ours, theirs = _tallies(recall["hybrid"], metric), _tallies(recall["context-20"], metric)
        difference = paired_bootstrap(ours, theirs)
        if difference:
            yield Claim(
                f"hybrid loses nothing significant against context-20: {what}",
                difference.hi >= 0,
                f"{cell(metric, difference.to_dict())} {'points' if 'id' in metric else 'dB'}",
            )


def _tallies(cases: Mapping[str, Any], metric: str) -> Sequence[Tally]:
    return [Tally(*score["metrics"][metric]) for score in cases.values()]
