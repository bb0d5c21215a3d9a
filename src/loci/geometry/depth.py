"""Depth images: checked where they come in, and as points of the world.

A pixel (u, v) has its centre at (u + 0.5, v + 0.5); depth is in metres along the camera's axis, and
0 where it is unknown.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loci.errors import LociError
from loci.errors.arguments import check_tensor
from loci.geometry import Camera


def intrinsics_of(camera: Camera) -> Tensor:
    """The intrinsics of a pinhole camera in pixels, (3, 3), fp64."""
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 0] = matrix[1, 1] = float(camera.focal)
    matrix[0, 2], matrix[1, 2] = camera.width / 2, camera.height / 2
    return matrix


def check_depth(depth: Tensor, unknown: bool = False) -> Tensor:
    """Depth (F, H, W), if it is some. LociError for NaN, infinity and negative numbers and, unless
    frames of unknown depth may be among them, for an image without a single known pixel."""
    check_tensor(depth, "depth", ("F", "H", "W"), note="metres, 0 where it is unknown")
    if bool((depth < 0).any()):
        raise LociError("negative depth; give metres along the camera's axis, 0 where unknown")
    empty = ~(depth > 0).flatten(1).any(1)
    if bool(empty.any()) and not unknown:
        frame = int(empty.nonzero()[0])
        raise LociError(f"the depth of frame {frame} is unknown everywhere; leave the frame out")
    return depth


def check_intrinsics(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Intrinsics (F, 3, 3) of images of this size, if they are some. LociError for focal lengths
    that are not positive, skew, and a principal point outside of the image."""
    check_tensor(intrinsics, "intrinsics", ("F", 3, 3), note="in pixels of the depth image")
    focal = intrinsics[:, [0, 1], [0, 1]]
    centre = intrinsics[:, [0, 1], [2, 2]]
    zeros = intrinsics[:, [0, 1, 2, 2], [1, 0, 0, 1]]
    size = centre.new_tensor([width, height])
    right = (focal > 0).all() & (zeros == 0).all() & (intrinsics[:, 2, 2] == 1).all()
    if not bool(right & ((centre > 0) & (centre < size)).all()):
        raise LociError(
            f"these are no intrinsics of images of {height}x{width}; give fx, fy above 0, a "
            "principal point inside of the image, and zeros beside them"
        )
    return intrinsics


def unproject(depth: Tensor, intrinsics: Tensor, poses: Tensor) -> Tensor:
    """The points behind depth (F, H, W), seen from camera-to-world poses (F, 4, 4) through
    intrinsics (F, 3, 3): (F, H, W, 3), fp64.

    Written out pixel by pixel: a matrix product would round differently for other numbers of
    frames, and a map has to come out the same however its frames arrive.
    """
    depth, matrix = depth.double()[..., None], intrinsics.double()[:, None, None]
    height, width = depth.shape[1:3]
    u = torch.arange(width, dtype=torch.float64, device=depth.device) + 0.5
    v = torch.arange(height, dtype=torch.float64, device=depth.device)[:, None, None] + 0.5
    x = (u[:, None] - matrix[..., :1, 2]) / matrix[..., :1, 0] * depth
    y = (v - matrix[..., 1:2, 2]) / matrix[..., 1:2, 1] * depth
    pose = poses.double()[:, None, None]
    turned = pose[..., :3, 0] * x + pose[..., :3, 1] * y + pose[..., :3, 2] * depth
    return turned + pose[..., :3, 3]


def project(points: Tensor, intrinsics: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Points (M, 3) of the world in an image: where (M, 2), in pixels, and their depth (M,)."""
    away = points.double() - pose[:3, 3]
    x, y, z = (
        sum(away[:, axis] * pose[axis, of] for axis in range(3)) for of in range(3)
    )
    ahead = torch.where(z > 0, z, torch.ones_like(z))
    u = x / ahead * intrinsics[0, 0] + intrinsics[0, 2]
    v = y / ahead * intrinsics[1, 1] + intrinsics[1, 2]
    return torch.stack([u, v], dim=1), z


def normals(points: Tensor, depth: Tensor) -> Tensor:
    """Unit normals (F, H, W, 3) of the surface through points (F, H, W, 3), towards the camera;
    zero where a neighbour's depth (F, H, W) is unknown."""
    padded = F.pad(points.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    known = F.pad((depth > 0).float()[:, None], (1, 1, 1, 1), mode="replicate")
    whole = -F.max_pool2d(-known, 3, stride=1)[:, 0] > 0
    # x is to the right and y down, so that this product points back at the camera.
    found = F.normalize(torch.linalg.cross(down, across), dim=-1)
    return found * whole[..., None]
