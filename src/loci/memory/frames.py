"""Frames and where they stand."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Frames:
    """Latent frames and where they stand, in rows R.

    latents (R, K, C, h, w); poses (R, K, 4, 4) camera-to-world, relative to each stream's first
    frame; time (R, K) noise levels, 0 for clean ones.
    """

    latents: Tensor
    poses: Tensor
    time: Tensor
