"""Which episodes a step sees: each once an epoch, in an order that seed and epoch alone decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Sampler:
    """Episodes of each step of `batch`, of as many as there are `lengths`.

    Steps run through one random order an epoch and go on into the next. buckets: the episodes of so
    many steps are sorted by their lengths (frames) and dealt out again, so that those of one step
    are about equally long; which of these steps gets which is random. A step costs O(batch *
    buckets): the order of an epoch is drawn once.
    """

    def __init__(self, seed: int, batch: int, lengths: Sequence[int], buckets: int = 1):
        self.seed, self.batch, self.lengths, self.buckets = seed, batch, lengths, buckets
        self._orders: dict[int, np.ndarray] = {}

    def picks(self, step: int) -> list[int]:
        """The episodes of a step: a pure function of the seed and the step."""
        if self.buckets == 1:
            return self._run(step * self.batch, self.batch)
        pool, place = divmod(step, self.buckets)
        size = self.batch * self.buckets
        samples = self._run(pool * size, size)
        samples.sort(key=lambda sample: self.lengths[sample])
        turns = np.random.default_rng([self.seed, pool, self.buckets]).permutation(self.buckets)
        first = int(turns[place]) * self.batch
        return samples[first : first + self.batch]

    def _run(self, start: int, count: int) -> list[int]:
        """`count` places from `start` on, of all epochs' orders one after the other."""
        samples: list[int] = []
        while count:
            epoch, place = divmod(start, len(self.lengths))
            found = self._order(epoch)[place : place + count]
            samples += found.tolist()
            start, count = start + len(found), count - len(found)
        return samples

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # Two are kept: a step may begin in one epoch and end in the next.
            self._orders = dict(list(self._orders.items())[-1:])
            draw = np.random.default_rng([self.seed, epoch])
            self._orders[epoch] = draw.permutation(len(self.lengths))
        return self._orders[epoch]
