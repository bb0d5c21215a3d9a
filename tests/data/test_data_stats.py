"""Statistics of features: exact where they are exact, lerobot's where they are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.data.statistics import (
    NAMES,
    QUANTILES,
    combine,
    sampled,
    thinned,
    vector_stats,
    visual_stats,
)


def test_the_names_are_those_of_lerobot() -> None:
    # compute_stats.py: get_feature_stats, DEFAULT_QUANTILES
    assert NAMES == ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")


def test_moments_of_vectors_are_numpys() -> None:
    values = np.random.default_rng(0).normal(3, 2, (500, 4)).astype(np.float32)
    stats = vector_stats(values)
    wide = values.astype(np.float64)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats[name], getattr(wide, name)(axis=0), rtol=1e-12)
    for name, share in QUANTILES.items():
        near = np.quantile(wide, [max(share - 0.006, 0), min(share + 0.006, 1)], axis=0)
        assert ((stats[name] >= near[0] - 1e-9) & (stats[name] <= near[1] + 1e-9)).all()
    assert stats["count"].tolist() == [500]
    assert stats["count"].dtype == np.int64


def test_quantiles_are_those_of_lerobots_histogram() -> None:
    # Worked out with RunningQuantileStats (compute_stats.py): 5,000 bins from least - 1e-10 to
    # greatest + 1e-10; 0..4 fall into bins 0, 1250, 2500, 3750, 4999, one each.
    stats = vector_stats(np.arange(5.0))
    edges = np.linspace(-1e-10, 4 + 1e-10, 5001)
    places = [int(np.searchsorted(edges, v, side="right") - 1) for v in range(5)]

    def within(place: int, part: float) -> float:
        return edges[place] + part * (edges[place + 1] - edges[place])

    assert stats["q01"].item() == edges[0]
    assert stats["q10"].item() == edges[0]
    assert stats["q50"].item() == pytest.approx(within(places[2], 0.5), abs=1e-12)
    assert stats["q90"].item() == pytest.approx(within(places[4], 0.5), abs=1e-12)
    assert stats["q99"].item() == pytest.approx(within(places[4], 0.95), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        (np.zeros(7), (1,)),
        (np.zeros((7, 1)), (1,)),
        (np.zeros((7, 3)), (3,)),
        (np.zeros((7, 2, 3)), (3,)),
        (np.zeros(7, bool), (1,)),
        (np.zeros((1, 3), np.int64), (3,)),
    ],
)
def test_shapes(values: np.ndarray, shape: tuple[int, ...]) -> None:
    stats = vector_stats(values)
    assert {name: found.shape for name, found in stats.items()} == dict.fromkeys(NAMES, shape) | {
        "count": (1,)
    }
    assert stats["count"].item() == len(values)


def test_frames_are_channels_in_zero_to_one() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), np.uint8)
    stats = visual_stats(frames)
    scaled = frames / 255
    for name in ("min", "max", "mean", "std"):
        wanted = getattr(scaled, name)(axis=(0, 1, 2)).reshape(3, 1, 1)
        np.testing.assert_allclose(stats[name], wanted, rtol=1e-9)
    assert all(stats[n].shape == (3, 1, 1) for n in NAMES if n != "count")
    flat = vector_stats(frames.reshape(-1, 3))
    for name in QUANTILES:
        np.testing.assert_allclose(stats[name].ravel() * 255, flat[name], atol=1e-9)
    assert stats["count"].tolist() == [5]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 1000))
def test_parts_together_are_the_whole(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(rng.normal(0, 50), 1, (n, 2)) for n in lengths]
    found, whole = combine(map(vector_stats, parts)), np.concatenate(parts)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(found[name], getattr(whole, name)(axis=0), rtol=1e-9, atol=1e-9)
    assert found["count"].tolist() == [len(whole)]
    one_by_one = vector_stats(parts[0])
    for part in parts[1:]:
        one_by_one = combine([one_by_one, vector_stats(part)])
    weights = np.array(lengths) / sum(lengths)
    for name, share in QUANTILES.items():
        each = np.stack([vector_stats(p)[name] for p in parts])
        right = each.min(0) if share < 0.5 else each.max(0) if share > 0.5 else weights @ each
        np.testing.assert_allclose(found[name], right, rtol=1e-9)
        np.testing.assert_allclose(one_by_one[name], right, rtol=1e-9)


def test_quantiles_hold_the_values_of_every_regime() -> None:
    """Half of the episodes at 0, half at 100: the mean of their quantiles is where nobody was."""
    parts = [np.random.default_rng(n).normal(100 * (n % 2), 1, (50, 1)) for n in range(6)]
    found, whole = combine(map(vector_stats, parts)), np.concatenate(parts)
    inside = (whole >= found["q01"]) & (whole <= found["q99"])
    assert inside.mean() >= 0.98
    assert ((whole >= found["q10"]) & (whole <= found["q90"])).mean() >= 0.8


def test_quantiles_that_a_part_lacks_are_left_out() -> None:
    old = {k: v for k, v in vector_stats(np.arange(4.0)).items() if k not in QUANTILES}
    assert set(combine([old, vector_stats(np.arange(3.0))])) == set(NAMES) - set(QUANTILES)


@pytest.mark.parametrize(
    ("length", "count"),
    # compute_stats.py: estimate_num_samples
    [(1, 1), (99, 99), (100, 100), (500, 105), (1000, 177), (2000, 299), (20000, 1681)],
)
def test_sampled_frames(length: int, count: int) -> None:
    found = sampled(length)
    assert len(found) == count
    assert found[0] == 0
    assert found[-1] == length - 1
    assert (np.diff(found) > 0).all()


def test_large_frames_are_thinned() -> None:
    assert thinned(np.zeros((1, 240, 299, 3))).shape == (1, 240, 299, 3)
    assert thinned(np.zeros((1, 240, 320, 3))).shape == (1, 120, 160, 3)
    assert thinned(np.zeros((1, 480, 640, 3))).shape == (1, 120, 160, 3)
