"""A step's batch in parts, side by side: one part a thread.

A small model is many small operations, and a second thread inside each of them gains next to
nothing. The same operations on half the batch, in two threads, take half the time. Torch leaves
Python's lock inside every operation, so that threads are enough. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

Loss = Callable[[dict[str, Tensor]], tuple[Tensor, dict[str, float]]]


class Parts:
    """Computes losses and gradients with `threads` threads (1: in the caller's own)."""

    def __init__(self, threads: int):
        self.threads = threads
        self.pool = (
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
            if threads > 1
            else None
        )

    def backward(
        self, loss: Loss, batch: dict[str, Tensor], parameters: list[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss and metrics of the batch, each tensor (B, ...); its gradients go to `.grad`.

        `loss` is a mean over the samples: what it says of the parts is averaged by their sizes,
        in their order, so that the same number of threads gives the same bits.
        """
        parts = self._split(batch)
        total = sum(size for size, _ in parts)

        def one(size: int, part: dict[str, Tensor]) -> tuple[Tensor, dict[str, float], list]:
            value, metrics = loss(part)
            share = size / total
            gradients = torch.autograd.grad(value * share, parameters, allow_unused=True)
            shares = {name: metric * share for name, metric in metrics.items()}
            return value.detach() * share, shares, list(gradients)

        if self.pool is None or len(parts) == 1:
            results = [one(*part) for part in parts]
        else:
            results = list(self.pool.map(lambda part: one(*part), parts))
        values, metrics, gradients = zip(*results, strict=True)
        for parameter, shares in zip(parameters, zip(*gradients, strict=True), strict=True):
            known = [share for share in shares if share is not None]
            # Optimisers that walk through memory want gradients that lie as their weights do.
            parameter.grad = None
            if known:
                parameter.grad = torch.empty_like(parameter).copy_(sum(known[1:], known[0]))
        return torch.stack(values).sum(), {
            name: sum(part[name] for part in metrics) for name in metrics[0]
        }

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def _split(self, batch: dict[str, Tensor]) -> list[tuple[int, dict[str, Tensor]]]:
        """(samples, tensors) of each part; parts differ by one sample at most."""
        samples = len(next(iter(batch.values())))
        count = min(self.threads, samples)
        split = [tensor.tensor_split(count) for tensor in batch.values()]
        return [
            (len(tensors[0]), dict(zip(batch, tensors, strict=True)))
            for tensors in zip(*split, strict=True)
        ]
