"""A place that is known exactly: a box room with coloured walls, and a cube in it or not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from loci.geometry import Camera
from loci.geometry.depth import intrinsics_of
from loci.geometry.scene_map import View

CAMERA = Camera(height=48, width=64, fov=70.0)
LOW, HIGH = torch.tensor([-2.0, -1.2, -2.0]).double(), torch.tensor([2.0, 1.2, 2.0]).double()
COLOURS = torch.tensor(
    [[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40], [40, 200, 200], [200, 40, 200]]
)
CUBE = torch.tensor([0.0, 0.6, 1.0]).double()
HALF = 0.3


def pose_of(yaw: float, place: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    """A camera that looks along z, turned to the right by `yaw` degrees."""
    pose, turn = torch.eye(4, dtype=torch.float64), math.radians(yaw)
    pose[0, 0] = pose[2, 2] = math.cos(turn)
    pose[0, 2], pose[2, 0] = math.sin(turn), -math.sin(turn)
    pose[:3, 3] = torch.tensor(place)
    return pose


def view(
    pose: Tensor, frame: int = 0, cube: Tensor | None = None, camera: Camera = CAMERA
) -> View:
    """What a camera sees of the room, and of a cube whose middle is at `cube`."""
    matrix = intrinsics_of(camera)
    v, u = torch.meshgrid(
        torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij"
    )
    rays = torch.stack([
        (u - matrix[0, 2]) / matrix[0, 0], (v - matrix[1, 2]) / matrix[1, 1], torch.ones_like(u)
    ], dim=-1).double() @ pose[:3, :3].T
    start = pose[:3, 3]
    # From inside of the box a ray leaves through the nearest of the walls ahead.
    walls = torch.where(rays > 0, HIGH, LOW)
    leave = (walls - start) / torch.where(rays == 0, torch.full_like(rays, 1e-12), rays)
    depth, side = leave.min(-1)
    ahead = torch.take_along_dim(rays, side[..., None], -1)[..., 0] > 0
    colour = COLOURS[2 * side + ahead]
    if cube is not None:
        a, b = ((cube + sign * HALF - start) / rays for sign in (-1, 1))
        enter, exits = torch.minimum(a, b).amax(-1), torch.maximum(a, b).amin(-1)
        hit = (enter < exits) & (enter > 0) & (enter < depth)
        depth = torch.where(hit, enter, depth)
        colour = torch.where(hit[..., None], torch.tensor([250, 250, 250]), colour)
    return View(depth.float(), colour.byte(), matrix, pose, frame)
