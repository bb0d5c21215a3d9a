"""The return loss: an auxiliary objective on what memory alone can know (ours, off by default).

A chunk counts again by its *return*: the share of its view that some earlier frame had in view and
the last one has not. What the last frame shows needs no memory, and what nobody saw, none can help
with. With L_g the flow-matching loss of chunk g and r_g its return,

    L = mean_g L_g + weight * sum_g r_g L_g / sum_g r_g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from loci.errors import LociError
from loci.geometry import Camera
from loci.memory.overlap import points_in_view
from loci.training.world import WorldRun, WorldTask

REACH = 4.0
"""Metres up to which a view counts."""


@dataclass(frozen=True, kw_only=True)
class ReturningRun(WorldRun, name="returning-world"):
    """A world model whose returns weigh `weight` more than in `WorldRun`."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight <= 0:
            raise LociError(f"a return loss of weight {self.weight} is none; use WorldRun")

    def task(self) -> ReturningTask:
        return ReturningTask(self)


class ReturningTask(WorldTask):
    """`WorldTask` with the return loss beside its own."""

    config: ReturningRun

    def total(self, losses: Tensor, batch: dict[str, Tensor]) -> Tensor:
        span, camera = self.config.world.chunk, self.config.world.camera
        share = returns(batch["poses"], self.starts, span, camera).to(losses)
        again = (share * losses).sum() / share.sum().clamp(min=1e-6)
        return losses.mean() + self.config.weight * again


def returning(run: WorldRun, weight: float = 1.0) -> ReturningRun:
    """The same run with the return loss."""
    return ReturningRun(**{f.name: getattr(run, f.name) for f in fields(run)}, weight=weight)


def returns(poses: Tensor, starts: Sequence[int], span: int, camera: Camera) -> Tensor:
    """The share of each chunk's view that was in view before and is not in the last frame's.

    poses (B, T, 4, 4) of whole episodes; chunk g covers `span` frames from starts[g]. Returns
    (B, G) in 0..1.
    """
    found = []
    for start in starts:
        seen = points_in_view(poses[:, start : start + span], poses[:, :start], camera, REACH)
        found.append((seen.any(dim=2) & ~seen[:, :, -1]).double().mean(dim=(1, 2)))
    return torch.stack(found, dim=1)
