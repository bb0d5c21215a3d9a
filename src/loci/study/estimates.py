"""Estimates with intervals: the bootstrap over cases, its paired form, Wilson's for shares.

A case contributes to a metric a sum and a count (an image score: the score and 1; a share: hits and
trials), and the metric is the ratio of the two totals. Cases, not objects or frames, are resampled,
because what happens inside one case is not independent.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile
interval); Wilson, JASA 22 (1927).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from loci.errors import LociError

DRAWS = 2000
LEVEL = 0.95
SEED = 20260
NOTHING = "–"
# How the JSON of an estimate calls its middle: a mean, a rate of hits, a median of timings.
MIDDLES = ("mean", "rate", "median")


@dataclass(frozen=True)
class Tally:
    """What one case adds to a metric: `total` summed over `count` trials (0: nothing to score)."""

    total: float
    count: int = 1


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its 95 % interval; `n` trials lie behind it."""

    mean: float
    lo: float
    hi: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        return {"mean": self.mean, "lo": self.lo, "hi": self.hi, "n": self.n}

    @classmethod
    def of_hits(cls, hits: int, n: int) -> Estimate:
        """The share of `hits` in `n` independent trials, with Wilson's interval."""
        return cls(hits / n, *wilson(hits, n), n)


def middle(estimate: Mapping[str, Any]) -> float | None:
    """The mean, rate or median of an estimate in JSON; None where there was no trial."""
    return next(estimate[name] for name in MIDDLES if name in estimate)


def shown(
    estimate: Mapping[str, Any] | None, form: str = ".2f", scale: float = 1, interval: bool = True
) -> str:
    """An estimate in JSON as text: "98 [96, 100]", each number times `scale` in the format `form`.

    A dash stands for what was not measured.
    """
    if estimate is None or (value := middle(estimate)) is None:
        return NOTHING
    ends = f" [{scale * estimate['lo']:{form}}, {scale * estimate['hi']:{form}}]"
    return f"{scale * value:{form}}" + ends * interval


def percent(estimate: Mapping[str, Any] | None, interval: bool = True) -> str:
    """A share as text, in per cent."""
    return shown(estimate, ".0f", 100, interval)


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Median and quartiles, and of how many: what a benchmark says of its timings."""
    lo, median, hi = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "lo": float(lo), "hi": float(hi), "n": len(values)}


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson's interval for a share of `hits` in `n` independent trials."""
    if n < 1 or not 0 <= hits <= n:
        raise LociError(f"no share in {hits} of {n}; count at least one trial")
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    share = hits / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)


def resample(cases: int, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """How often each case is drawn in each sample, (draws, cases); rows sum to `cases`."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(cases, np.full(cases, 1 / cases), size=draws)


def _split(tallies: Sequence[Tally]) -> tuple[np.ndarray, np.ndarray]:
    totals = np.array([t.total for t in tallies], dtype=np.float64)
    counts = np.array([t.count for t in tallies], dtype=np.float64)
    return totals, counts


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The percentile interval; samples that drew no trial (NaN) say nothing and are left out."""
    lo, hi = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(lo), float(hi)


def _ratios(weights: np.ndarray, totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    trials = weights @ counts
    return np.divide(weights @ totals, trials, out=np.full(len(weights), np.nan), where=trials > 0)


def bootstrap(
    tallies: Sequence[Tally], *, share: bool = False, draws: int = DRAWS, seed: int = SEED
) -> Estimate | None:
    """The metric over all cases with its percentile interval; None where no case has a trial.

    `share=True` says that every trial is 0 or 1. When all of them agree, resampling them has no
    spread and would claim certainty, so Wilson's interval is given instead.
    """
    totals, counts = _split(tallies)
    n = int(counts.sum())
    if n == 0:
        return None
    mean = float(totals.sum() / counts.sum())
    if share and mean in (0.0, 1.0):
        return Estimate(mean, *wilson(float(totals.sum()), n), n)
    lo, hi = _interval(_ratios(resample(len(tallies), draws, seed), totals, counts))
    return Estimate(mean, lo, hi, n)


def paired_bootstrap(ours: Sequence[Tally], floor: Sequence[Tally]) -> Estimate | None:
    """The difference of two rows over the same cases in the same order, resampled together.

    Raises LociError when the two do not list the same number of cases.
    """
    if len(ours) != len(floor):
        raise LociError(f"{len(ours)} cases do not pair with {len(floor)}; evaluate the same ones")
    a, b = _split(ours), _split(floor)
    if not a[1].sum() or not b[1].sum():
        return None
    weights = resample(len(ours))
    lo, hi = _interval(_ratios(weights, *a) - _ratios(weights, *b))
    mean = float(a[0].sum() / a[1].sum() - b[0].sum() / b[1].sum())
    return Estimate(mean, lo, hi, int(min(a[1].sum(), b[1].sum())))


def paired_shares(ours: Sequence[bool], theirs: Sequence[bool]) -> Estimate:
    """The difference of two shares of success over the same cases, never claimed to be certain.

    It is the paired bootstrap. Where every pair differs by the same d, resampling has no spread:
    then, with Wilson's bound on the share of pairs that do, the others may be anything (ours).
    """
    found = paired_bootstrap([Tally(hit) for hit in ours], [Tally(hit) for hit in theirs])
    if found is None or found.lo < found.hi:
        return found or Estimate(0.0, -1.0, 1.0, 0)
    other = 1 - wilson(len(ours), len(ours))[0]
    lo, hi = (found.mean + other * (end - found.mean) for end in (-1, 1))
    return Estimate(found.mean, lo, hi, found.n)
