"""Intervals against published values, brute force and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from loci.errors import LociError
from loci.study.estimates import (
    Tally,
    bootstrap,
    paired_bootstrap,
    resample,
    wilson,
)


def test_wilson_against_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score).
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    with pytest.raises(LociError, match="trial"):
        wilson(0, 0)


def test_the_bootstrap_is_a_loop_over_resampled_cases() -> None:
    tallies = [Tally(3, 4), Tally(0, 2), Tally(5, 5), Tally(1, 1), Tally(0, 0)]
    ratios = []
    for weights in resample(5, 500, 3):
        assert weights.sum() == 5
        drawn = [t for t, w in zip(tallies, weights, strict=True) for _ in range(w)]
        if sum(t.count for t in drawn):
            ratios.append(sum(t.total for t in drawn) / sum(t.count for t in drawn))
    found = bootstrap(tallies, draws=500, seed=3)
    assert found is not None
    assert (found.mean, found.n) == (9 / 12, 12)
    assert (found.lo, found.hi) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))


def test_nothing_to_score_is_absent_and_not_zero() -> None:
    assert bootstrap([Tally(0, 0), Tally(0, 0)]) is None
    assert paired_bootstrap([Tally(1)], [Tally(0, 0)]) is None


def test_unanimous_shares_keep_an_interval() -> None:
    full = bootstrap([Tally(2, 2)] * 10, share=True)
    assert full is not None
    assert (full.lo, full.hi) == pytest.approx(wilson(20, 20))
    empty = bootstrap([Tally(0, 2)] * 10, share=True)
    assert empty is not None
    assert (empty.lo, empty.hi) == pytest.approx(wilson(0, 20))


def test_same_cases_same_interval() -> None:
    values = [Tally(float(v)) for v in np.random.default_rng(0).normal(size=40)]
    assert bootstrap(values) == bootstrap(values)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator, hits = np.random.default_rng(5), 0
    for _ in range(200):
        sample = [Tally(float(v)) for v in generator.normal(1.0, 2.0, size=64)]
        found = bootstrap(sample, draws=300)
        assert found is not None
        hits += found.lo <= 1.0 <= found.hi
    assert 0.89 <= hits / 200 <= 0.99


def test_pairing_removes_what_cases_have_in_common() -> None:
    generator = np.random.default_rng(6)
    difficulty = generator.normal(0, 10, size=64)
    floor = [Tally(float(d)) for d in difficulty]
    ours = [Tally(float(v)) for v in difficulty + 1 + generator.normal(0, 0.5, size=64)]
    paired, alone = paired_bootstrap(ours, floor), bootstrap(ours)
    assert paired is not None
    assert alone is not None
    assert 0.6 < paired.lo < paired.mean < paired.hi < 1.4
    assert alone.hi - alone.lo > 10 * (paired.hi - paired.lo)
    with pytest.raises(LociError, match="pair"):
        paired_bootstrap(ours, floor[:-1])
