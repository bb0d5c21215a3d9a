"""Camera poses as actions that a network takes in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
