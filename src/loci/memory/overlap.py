"""How much of what one camera sees another one saw.

Context-as-Memory's idea with true axes: the score depends on yaw, pitch and position, and the
range is capped, so that a camera far behind does not win by seeing everything from afar.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loci.geometry import Camera


def frustum_points(camera: Camera, reach: float) -> Tensor:
    """Points that fill the view of a camera up to `reach` metres, camera axes, (P, 3).

    Fixed, so that retrieval is deterministic: a 5 x 3 grid of rays, four depths on each.
    """
    half = torch.tan(torch.deg2rad(torch.tensor(camera.fov / 2, dtype=torch.float64)))
    across = torch.linspace(-0.9, 0.9, 5, dtype=torch.float64) * half
    down = torch.linspace(-0.7, 0.7, 3, dtype=torch.float64) * half * camera.height / camera.width
    depth = torch.linspace(0.25, 0.95, 4, dtype=torch.float64) * reach
    x, y, z = torch.meshgrid(across, down, depth, indexing="ij")
    return torch.stack([x * z, y * z, z], dim=-1).reshape(-1, 3)


def points_in_view(targets: Tensor, past: Tensor, camera: Camera, reach: float) -> Tensor:
    """Which of the points that fill each target view lie in each past view, (B, T, N, P) booleans.

    targets (B, T, 4, 4) and past (B, N, 4, 4) are camera-to-world poses in one world frame.
    """
    points = frustum_points(camera, reach).to(targets.device)
    targets, past = targets.double(), past.double()
    world = points @ targets[..., :3, :3].mT + targets[..., None, :3, 3]  # (B, T, P, 3)
    offset = world[:, :, None] - past[:, None, :, None, :3, 3]  # (B, T, N, P, 3)
    seen_at = offset @ past[:, None, :, :3, :3]
    x, y, z = seen_at.unbind(-1)
    half = torch.tan(torch.deg2rad(torch.tensor(camera.fov / 2, dtype=torch.float64)))
    tall = half * camera.height / camera.width
    return (z > 0) & (z < reach) & (x.abs() <= half * z) & (y.abs() <= tall * z)


def view_overlap(targets: Tensor, past: Tensor, camera: Camera, reach: float) -> Tensor:
    """The share of each target view that lies inside each past view, (B, T, N), in 0..1."""
    return points_in_view(targets, past, camera, reach).double().mean(-1)
