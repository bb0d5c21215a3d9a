"""What a task is: a module, its batches, and its loss on each sample."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

# Tensors (B, ...) and lists of B values, one entry a sample; and values that hold for all samples,
# numbers and tuples. Only tensors go to the device.
Batch = dict[str, Any]
# The loss of every sample (b,), and what the log says beside it, (b,) each.
Losses = tuple[Tensor, dict[str, Tensor]]


class Task:
    """What is learnt: a module, its data and its loss.

    A loss is one number a sample, never one of the whole batch. The trainer takes the mean, so that
    a batch may be computed in microbatches of any size, with the same result. A weight that depends
    on the whole batch is computed by `batch`, which sees all of it.

    splits: whether samples may be computed apart; False where they share statistics, as in batch
    normalisation.
    """

    splits: ClassVar[bool] = True
    module: nn.Module

    def batch(self, step: int) -> Batch:
        """All of one step, noise included: a pure function of (seed, step), made on the host."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Losses:
        """What to minimise for each sample (B,), and metrics of it, each (B,) without gradient.

        Nothing random. No value is read here: on a GPU that would be a wait.
        """
        raise NotImplementedError


def samples(batch: Batch) -> int:
    """The number of samples, B."""
    return next((len(value) for value in batch.values() if isinstance(value, Tensor)), 0)
