"""Muon: momentum whose update is made orthogonal, for the matrices inside a network.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with the step size of Liu et al.
(arXiv 2502.16982): an update has the root mean square of an AdamW update, so that learning rates
carry over. torch.optim.Muon computes the same in bf16 throughout, which a CPU without bf16
instructions only emulates, slowly; ours works in the dtype of the weights, and on all matrices of
one shape at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loci.memory.newton_schulz import orthogonalise
from loci.training.distributed import local, lying_as, whole

if TYPE_CHECKING:
    from loci.training.train_config import TrainConfig

class Muon(torch.optim.AdamW):
    """Muon for the groups marked `muon`, fused AdamW for all others, as one optimiser.

    Nesterov momentum, orthogonalised, with decoupled weight decay; such groups hold matrices only.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float],
        momentum: float = 0.95,
    ):
        # Fused: one kernel for all parameters, on a CPU too.
        super().__init__(groups, lr=lr, betas=betas, fused=True)
        self.momentum = momentum

    def __setstate__(self, state: dict[str, Any]) -> None:
        # AdamW's own expects a counter of steps for every parameter; momentum has none.
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        everything = self.param_groups
        try:
            # AdamW updates every group it knows of.
            self.param_groups = [g for g in everything if not g.get("muon")]
            super().step()
        finally:
            self.param_groups = everything
        for group in everything:
            if group.get("muon"):
                self._muon(group)
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        shapes: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes[tuple(parameter.shape)].append(parameter)
        for (rows, cols), matrices in shapes.items():
            # Of a matrix that is shared, every process makes the whole step and takes its part.
            steps = torch.stack([whole(self._nesterov(p, p.grad)) for p in matrices])
            # The RMS of an orthogonal matrix is 1 / sqrt(longer side), that of AdamW's about 0.2.
            rate = group["lr"] * 0.2 * max(rows, cols) ** 0.5
            own = [local(matrix.detach()) for matrix in matrices]
            parts = zip(orthogonalise(steps).unbind(0), matrices, strict=True)
            torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(own, [local(lying_as(u, p)) for u, p in parts], alpha=-rate)

    def _nesterov(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - self.momentum)
        return gradient.lerp(buffer, self.momentum)


def build_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, with Muon for the matrices inside `blocks` where the configuration wants it.

    Each group's learning rate is `scale` times the schedule's.
    """
    hidden, matrices, vectors = [], [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = config.muon is not None and "blocks." in name and parameter.dim() == 2
        kind = hidden if inside else matrices if parameter.dim() > 1 else vectors
        kind.append(parameter)
    decay = config.weight_decay
    groups = [
        {"params": matrices, "weight_decay": decay, "scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "scale": 1.0},
        {"params": hidden, "weight_decay": decay, "scale": (config.muon or 0.0) / config.lr,
         "muon": True},
    ]
    return Muon([g for g in groups if g["params"]], lr=config.lr, betas=config.betas)
