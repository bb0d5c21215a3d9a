"""Which samples a step sees: each once an epoch, in an order of seed and epoch alone."""

from __future__ import annotations

import numpy as np


def picked(seed: int, step: int, batch: int, count: int) -> list[int]:
    """The samples, of `count`, of a step of `batch`; steps go on through the epochs' orders."""
    picks = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, count)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        picks.append(int(order[place]))
    return picks
