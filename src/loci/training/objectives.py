"""What training minimises: the terms of a loss and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loci.config import Config
from loci.errors import LociError
from loci.geometry import Camera
from loci.memory.overlap import points_in_view

REACH = 4.0
"""Metres up to which a view counts."""


@dataclass(frozen=True, kw_only=True)
class WorldObjective(Config):
    """A world model's loss: flow matching on every chunk, and the revisit loss beside it.

    revisit: weight of an auxiliary loss on what memory alone can know (ours; 0: left out). A chunk
    counts again by its *return*: the share of its view that some earlier frame had in view and the
    last one has not. What the last frame shows needs no memory, and what nobody saw, none can help
    with. With L_g the flow-matching loss of chunk g and r_g its return,

        L = mean_g L_g + revisit * sum_g r_g L_g / sum_g r_g,

    the sums over all chunks of a batch.
    """

    revisit: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.revisit < torch.inf:
            raise LociError(f"objective.revisit is {self.revisit}, a weight; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class PolicyObjective(Config):
    """A policy's loss: L = actions * L_actions + video * L_video, MemoryWAM's (arXiv 2606.20562,
    Training), flow matching on both with their own shifts and weights.

    actions, video: the weights of both. video_frames: frames of an episode whose prediction is
    supervised in a step, picked at random (None: all of them); without a video loss there are none.
    """

    actions: float = 1.0
    video: float = 1.0
    video_frames: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.actions < torch.inf:
            raise LociError(f"objective.actions is {self.actions}, a weight; use more than 0")
        if not 0 <= self.video < torch.inf:
            raise LociError(f"objective.video is {self.video}, a weight; use 0 or more")
        if self.video_frames is not None and self.video_frames < 1:
            raise LociError(
                f"objective.video_frames is {self.video_frames}; use 1 or more, or None for all"
            )


def revisit_shares(returned: Tensor) -> Tensor:
    """Weights (B, G) of the chunks of a whole batch from their returns (B, G): with them, the mean
    over samples of sum_g w_g L_g is the batch's sum of r L over its sum of r.

    Made where the whole batch is: a part of it does not know the sum.
    """
    return len(returned) * returned / returned.sum().clamp(min=1e-6)


def returns(poses: Tensor, starts: Sequence[int], span: int, camera: Camera) -> Tensor:
    """The share of each chunk's view that was in view before and is not in the last frame's.

    poses (B, T, 4, 4) of whole episodes; chunk g covers `span` frames from starts[g]. Returns
    (B, G) in 0..1, float64.
    """
    shares = []
    for start in starts:
        seen = points_in_view(poses[:, start : start + span], poses[:, :start], camera, REACH)
        shares.append((seen.any(dim=2) & ~seen[:, :, -1]).double().mean(dim=(1, 2)))
    return torch.stack(shares, dim=1)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """The mean over a sample of what counts, (B,), of values and weights (B, S); 0 for nothing."""
    weight = weight.to(values.dtype)
    return (values * weight).sum(1) / weight.sum(1).clamp(min=1)
