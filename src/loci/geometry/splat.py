"""Drawing points: a z-buffer in which one point wins each pixel, in whatever order they come.

Depth and number of a point are packed into one integer, the depth in front, and a pixel keeps the
smallest: of two points at one depth the one with the smaller number wins. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loci.geometry.depth import project

NEAR = 0.02  # metres; what is nearer is not drawn
# A point covers so many pixels around its own at most, a side.
REACH = 12
NOBODY = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Drawn:
    """Who won the pixels of an image: number (H, W), -1 for nobody; depth (H, W) in metres, 0 where
    nobody did."""

    number: Tensor
    depth: Tensor

    @property
    def covered(self) -> Tensor:
        return self.number >= 0


def splat(
    points: Tensor, size: Tensor | float, intrinsics: Tensor, pose: Tensor, height: int, width: int
) -> Drawn:
    """Draw points (M, 3) of a width of `size` metres, one or (M,), seen from a camera-to-world pose
    (4, 4) through intrinsics (3, 3).

    A point is a square that faces the camera, as wide as it is there: so near surfaces have no
    holes and far ones are not swollen.
    """
    where, z = project(points, intrinsics, pose)
    size = torch.as_tensor(size, dtype=torch.float64, device=points.device).expand(len(points))
    spread = size * intrinsics[0, 0] / z.clamp(min=NEAR) / 2
    u, v = where.unbind(1)
    inside = (z > NEAR) & (u + spread > 0) & (u - spread < width) & (v + spread > 0)
    inside &= v - spread < height
    (numbers,) = inside.nonzero(as_tuple=True)
    u, v, spread = u[numbers], v[numbers], spread[numbers].clamp(max=REACH)
    depth = z[numbers].float()
    # Positive floats are ordered as their bits are.
    packed = depth.view(torch.int32).long() << 32 | numbers
    # Of each point the pixels whose centres its square covers, and the one that it stands in.
    left, right = _covered(u, spread, width)
    top, bottom = _covered(v, spread, height)
    wide, high = (right - left).clamp(min=0), (bottom - top).clamp(min=0)
    count = wide * high
    owner = torch.repeat_interleave(count)
    place = torch.arange(len(owner), device=points.device) - (count.cumsum(0) - count)[owner]
    x, y = left[owner] + place % wide[owner], top[owner] + place // wide[owner]
    buffer = torch.full((height * width,), NOBODY, dtype=torch.int64, device=points.device)
    buffer.scatter_reduce_(0, y * width + x, packed[owner], "amin")
    there = buffer != NOBODY
    number = torch.where(there, buffer & 0xFFFFFFFF, torch.full_like(buffer, -1))
    bits = torch.where(there, buffer >> 32, torch.zeros_like(buffer)).int()
    return Drawn(number.view(height, width), bits.view(torch.float32).view(height, width))


def _covered(centre: Tensor, spread: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first pixel along an axis that a square covers, and the first beyond it."""
    own = centre.floor()
    first = torch.minimum((centre - spread - 0.5).ceil(), own).clamp(min=0)
    beyond = torch.maximum((centre + spread - 0.5).floor(), own).clamp(max=size - 1) + 1
    return first.long(), beyond.long()
