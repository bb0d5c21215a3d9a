"""Which samples a step sees: each once an epoch, in an order of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def picked(seed: int, step: int, batch: int, count: int) -> list[int]:
    """The samples, of `count`, of a step of `batch`; steps go on through the epochs' orders."""
    picks = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, count)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        picks.append(int(order[place]))
    return picks


def picked_alike(
    seed: int, step: int, batch: int, lengths: Sequence[int], steps: int
) -> list[int]:
    """As `picked`, but the samples of so many `steps` are dealt out by their lengths: those of a
    step are about equally long, and which step gets which is random."""
    if steps == 1:
        return picked(seed, step, batch, len(lengths))
    pool, place = divmod(step, steps)
    samples = picked(seed, pool, batch * steps, len(lengths))
    samples.sort(key=lambda sample: lengths[sample])
    turn = int(np.random.default_rng([seed, pool, steps]).permutation(steps)[place])
    return samples[turn * batch : (turn + 1) * batch]
