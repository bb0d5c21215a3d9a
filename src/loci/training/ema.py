"""The exponential moving average of the weights: what is evaluated and shipped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from loci.training.distributed import local, lying_as


class Ema:
    """The running average of a module's trainable parameters.

    decay: weight of the old average in each update. Early on the average follows faster,
    min(decay, (1 + n) / (10 + n)) after n updates, so that the initial weights are forgotten.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self._own = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.tensors: dict[str, Tensor] = {n: p.detach().clone() for n, p in self._own.items()}
        self._averages = [local(average) for average in self.tensors.values()]
        self._weights = [local(p.detach()) for p in self._own.values()]

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move towards the present weights; `updates` counts those before this one."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a saved average; the names are those of `tensors`."""
        for name, average in self.tensors.items():
            average.copy_(lying_as(tensors[name], average))

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Replace the module's trainable parameters by their average."""
        for name, parameter in self._own.items():
            parameter.copy_(self.tensors[name])
