"""The sampler gives the recorded runs the episodes that they saw, and costs a batch, not a data
set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loci.training.sampler import Sampler


def recorded(seed: int, step: int, batch: int, count: int) -> list[int]:
    """The formula that the recorded runs were made with: a whole order for every sample."""
    picks = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, count)
        picks.append(int(np.random.default_rng([seed, epoch]).permutation(count)[place]))
    return picks


def recorded_alike(
    seed: int, step: int, batch: int, lengths: list[int], steps: int
) -> list[int]:
    pool, place = divmod(step, steps)
    samples = recorded(seed, pool, batch * steps, len(lengths))
    samples.sort(key=lambda sample: lengths[sample])
    turn = int(np.random.default_rng([seed, pool, steps]).permutation(steps)[place])
    return samples[turn * batch : (turn + 1) * batch]


@given(
    seed=st.integers(0, 5), batch=st.integers(1, 9), count=st.integers(1, 13),
    steps=st.lists(st.integers(0, 40), max_size=4),
)
def test_a_step_sees_what_it_saw_in_the_recorded_runs(seed, batch, count, steps):
    sampler = Sampler(seed, batch, [1] * count)
    for step in steps:  # in any order: a resumed run begins anywhere
        assert sampler.picks(step) == recorded(seed, step, batch, count)


@given(
    seed=st.integers(0, 5), batch=st.integers(1, 4), buckets=st.integers(2, 5),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=12), step=st.integers(0, 30),
)
def test_so_does_a_step_of_episodes_that_are_about_equally_long(
    seed, batch, buckets, lengths, step
):
    found = Sampler(seed, batch, lengths, buckets).picks(step)
    assert found == recorded_alike(seed, step, batch, lengths, buckets)


def test_an_epochs_order_is_drawn_once(monkeypatch: pytest.MonkeyPatch):
    drawn = []
    real = np.random.default_rng

    def counted(seed):
        drawn.append(seed)
        return real(seed)

    monkeypatch.setattr(np.random, "default_rng", counted)
    sampler = Sampler(0, 8, [1] * 1000)
    for step in range(125):
        sampler.picks(step)
    assert drawn == [[0, 0]]
    sampler.picks(125)
    assert drawn == [[0, 0], [0, 1]]


def test_episodes_of_a_step_are_alike_and_all_are_seen_as_often():
    lengths = np.random.default_rng(0).integers(10, 50, 40).tolist()
    plain = [Sampler(3, 4, lengths).picks(step) for step in range(20)]
    alike = [Sampler(3, 4, lengths, 10).picks(step) for step in range(20)]
    for epoch in (alike[:10], alike[10:]):
        assert sorted(sample for picks in epoch for sample in picks) == list(range(40))
    waste = [
        sum(max(lengths[p] for p in picks) - np.mean([lengths[p] for p in picks]) for picks in way)
        for way in (alike, plain)
    ]
    assert waste[0] < waste[1] / 3
    means = [np.mean([lengths[p] for p in picks]) for picks in alike[:10]]
    assert means not in (sorted(means), sorted(means, reverse=True))
