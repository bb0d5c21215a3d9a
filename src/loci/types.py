"""Small value types that every part shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from loci.config import Config


@dataclass(frozen=True, kw_only=True)
class Camera(Config):
    """A pinhole camera with square pixels and a centred principal point.

    `fov` is the horizontal field of view in degrees.
    """

    height: int = 64
    width: int = 64
    fov: float = 60.0

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return 0.5 * self.width / np.tan(np.radians(self.fov) / 2)

    def rays(self) -> np.ndarray:
        """Unit ray directions through the pixel centres, camera axes, (H, W, 3)."""
        u = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal
        v = (np.arange(self.height) + 0.5 - self.height / 2) / self.focal
        x, y = np.meshgrid(u, v)
        rays = np.stack([x, y, np.ones_like(x)], axis=-1)
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Frames:
    """Latent frames and where they stand, in rows R.

    latents (R, K, C, h, w); poses (R, K, 4, 4) camera-to-world, relative to each stream's first
    frame; time (R, K) noise levels, 0 for clean ones.
    """

    latents: Tensor
    poses: Tensor
    time: Tensor
