"""What an estimator of depth is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class DepthEstimator(Protocol):
    """Depth of the frames of a clip, from what they show."""

    def __call__(
        self, images: Tensor, poses: Tensor | None = None, intrinsics: Tensor | None = None
    ) -> Tensor:
        """Depth (T, H, W) in metres along z, 0 where unknown, of images (T, H, W, 3) uint8.

        poses (T, 4, 4) camera-to-world and intrinsics (T, 3, 3) in pixels, where they are known.
        """
        ...
