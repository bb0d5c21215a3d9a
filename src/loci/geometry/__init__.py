"""Cameras and their poses; in the files beside, depth and maps of a place.

Axes are OpenCV's (x right, y down, z forward), poses camera-to-world, metres and radians. A pose
enters a model only relative to a named reference frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loci.config import Config
from loci.errors import LociError
from loci.errors.arguments import Holds, check_tensor

# Rounding that a pose in single precision may show, far below any real mistake.
TOLERANCE = 1e-4


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


def checked_poses(poses: Tensor, shape: Sequence[int | str] = ("B", "T")) -> Tensor:
    """Camera-to-world poses (B, T, 4, 4), as float64 on the CPU, no gradients.

    shape: how many rows and frames there have to be; a text stands for any number. Raises LociError
    for what is no tensor, another shape, NaN or infinity, and for what is no rigid motion.
    """
    check_tensor(
        poses, "poses", (*shape, 4, 4), Holds.NUMBERS,
        note="one 4x4 camera-to-world matrix a frame",
    )
    poses = poses.detach().to("cpu", torch.float64)
    turn = poses[..., :3, :3]
    off = (turn @ turn.mT - torch.eye(3, dtype=torch.float64)).abs().amax(dim=(-2, -1))
    bottom = poses.new_tensor([0.0, 0.0, 0.0, 1.0])
    bad = (off > TOLERANCE) | (torch.linalg.det(turn) < 0)
    bad |= ((poses[..., 3, :] - bottom).abs() > TOLERANCE).any(-1)
    if bool(bad.any()):
        row, frame = bad.nonzero()[0].tolist()
        raise LociError(
            f"the pose of frame {frame} in row {row} is no rigid motion; give a rotation of "
            "determinant 1, a translation and the last row 0 0 0 1"
        )
    return poses


def relative_to(reference: Tensor, poses: Tensor) -> Tensor:
    """Camera-to-world poses (B, T, 4, 4) in the frame of the camera `reference` (B, 4, 4).

    A rigid inverse, exact up to rounding, in float64.
    """
    reference, poses = reference.double(), poses.double()
    turn = reference[:, None, :3, :3].mT
    result = torch.zeros_like(poses)
    result[..., :3, :3] = turn @ poses[..., :3, :3]
    result[..., :3, 3] = (turn @ (poses[..., :3, 3] - reference[:, None, :3, 3])[..., None])[..., 0]
    result[..., 3, 3] = 1.0
    return result
