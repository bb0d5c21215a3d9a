"""Camera poses as actions.

A pose enters a model only relative to a named reference frame: here the first frame of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.errors import LociError

# Rounding that a pose in single precision may show, far below any real mistake.
TOLERANCE = 1e-4


def checked_poses(poses: Tensor, shape: Sequence[int]) -> Tensor:
    """Camera-to-world poses (B, T, 4, 4) of shape (B, T), as float64 on the CPU, no gradients.

    Raises LociError for another shape, NaN or infinity, and for what is no rigid motion.
    """
    if poses.shape != (*shape, 4, 4) or len(shape) != 2 or 0 in shape:
        raise LociError(
            f"poses of shape {tuple(poses.shape)} for rows and frames {tuple(shape)}; "
            "give one 4x4 camera-to-world matrix a frame, and one frame or more"
        )
    poses = poses.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(poses).all()):
        raise LociError("a pose holds NaN or infinity; fix the camera path")
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


def twelve_numbers(poses: Tensor) -> Tensor:
    """Echo-Memory's action [tx, ty, tz, R row-major] of relative poses (B, T, 4, 4): (B, T, 12)."""
    return torch.cat([poses[..., :3, 3], poses[..., :3, :3].flatten(-2)], dim=-1).float()


class CameraInjection(nn.Module):
    """x <- x + A(x + W motion): attention over time at each spatial site.

    Echo-Memory (arXiv 2606.09803): W (12 -> D) and the output of A start at zero, so that the
    block starts as if there were no camera. Time runs over the frames that are denoised together;
    a clean frame attends to itself, so that what is cached never depends on a later frame.
    """

    def __init__(self, dim: int, heads: int, eps: float):
        super().__init__()
        self.heads = heads
        self.proj = nn.Linear(12, dim)
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        # As in Wan's own attention: over the full width, before the heads are split.
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps), nn.RMSNorm(dim, eps)
        for layer in (self.proj, self.o):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, motion: Tensor | None, span: int) -> Tensor:
        """x (B, F, P, D), motion (B, F, 12); groups of `span` frames attend within themselves."""
        if motion is None:
            return x
        y = x + self.proj(motion.to(x.dtype)).unsqueeze(2)
        batch, frames, tokens, _ = y.shape
        y = y.unflatten(1, (frames // span, span)).transpose(2, 3).flatten(0, 2)  # (B*G*P, span, D)
        parts = self.norm_q(self.q(y)), self.norm_k(self.k(y)), self.v(y)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        seen = self.o(seen).unflatten(0, (batch, frames // span, tokens))
        return x + seen.transpose(2, 3).flatten(1, 2)
