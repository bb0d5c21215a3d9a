"""What single frames saw: of each its pose and a small depth image, enough to tell of any point
whether the frame shows it or something in front of it. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from loci.errors import LociError
from loci.geometry import checked_poses
from loci.geometry.cells import Cells
from loci.geometry.scene_map import View
from loci.geometry.splat import NEAR

# A point is where a frame's depth says if it is off by no more than this share of its depth, as
# rooms score it, and this share of a voxel.
SHARE, SLACK = 0.05, 0.25
# Depths of a cell that are further apart than this belong to two surfaces with nothing in between.
EDGE = 1.3
# A surface may be turned away from a camera that saw it by so much, a cosine: normals are coarse.
TURNED = 0.2
# Metres that half precision holds.
LEAST, MOST = 1e-3, 6e4


class Sightings(Cells):
    """Frames by their numbers. side: rows and columns of a small depth image, which
    keeps the nearest and the farthest depth of what falls into a cell. size: of the points that
    will be asked for, in metres."""

    def __init__(self, side: int, size: float, device: torch.device):
        self.side, self.size = side, size
        image = ((side * side,), torch.float16, 0)
        super().__init__({
            "pose": ((4, 4), torch.float64, 0), "lens": ((4,), torch.float64, 0),
            "near": image, "far": image, "reach": ((), torch.float32, 0),
        }, device)

    def add(self, view: View, pose: Tensor) -> None:
        """Take in a view that was checked, seen from a pose (4, 4)."""
        row = self.insert(torch.tensor([view.frame], device=self.keys.device))
        height, width = view.depth.shape
        matrix, (near, far) = view.intrinsics, small(view.depth, self.side)
        size = matrix.new_tensor([width, height])
        lens = torch.cat([matrix[[0, 1], [0, 1]] / size, matrix[:2, 2] / size])
        made = {"pose": pose, "lens": lens, "near": near, "far": far, "reach": far.max()}
        for name, value in made.items():
            self[name][row] = value.to(self[name].dtype)

    def saw(self, rows: Tensor, points: Tensor, facing: Tensor) -> Tensor:
        """Which points (P, 3), fp64, of surfaces with normals (P, 3) the frames in rows (n,) saw:
        (n, P) booleans.

        A frame saw a point that lies in its view at a depth which its small image has there, on a
        surface that is not turned away from it: so thin walls have two sides.
        """
        if not len(points) or not len(rows):
            return torch.zeros(len(rows), len(points), dtype=torch.bool, device=points.device)
        # Near the points single precision is enough, wherever the place lies.
        middle = points.mean(0)
        points, facing = points - middle, facing.float()
        pose, lens = self["pose"][rows], self["lens"][rows] * self.side
        place = pose[:, :3, 3] - middle
        turn = pose[:, :3, :3].mT
        image = torch.cat([turn, -turn @ place[..., None]], dim=2)
        image[:, :2] = lens[:, :2, None] * image[:, :2] + lens[:, 2:, None] * image[:, 2:]
        whole = torch.cat([points, torch.ones_like(points[:, :1])], dim=1).float()
        drawn = (image.float().flatten(0, 1) @ whole.T).view(len(rows), 3, -1)
        u, v, z = drawn.unbind(1)
        inside = (torch.minimum(u, v) >= 0) & (torch.maximum(u, v) < self.side * z) & (z > NEAR)
        # Most points are in few views: what is left is done for those alone.
        (pair,) = inside.flatten().nonzero(as_tuple=True)
        frame, point = pair // len(points), pair % len(points)
        at = pair + frame * 2 * len(points)
        u, v, z = (drawn.view(-1)[at + axis * len(points)] for axis in range(3))
        column, line = ((part / z).long().clamp(max=self.side - 1) for part in (u, v))
        cell = rows[frame] * self.side**2 + line * self.side + column
        near, far = (self[name].view(-1)[cell].float() for name in ("near", "far"))
        slack = SHARE * z + SLACK * self.size
        there = (z >= near) & (z <= far) & (far <= EDGE * near)
        there |= ((z - near).abs() <= slack) | ((z - far).abs() <= slack)
        towards = ((place.float()[frame] - points.float()[point]) * facing[point]).sum(1)
        inside.view(-1)[pair] = (far > 0) & there & (towards > -TURNED * z)
        return inside

    def towards(self, points: Tensor) -> Tensor:
        """Which frames (N,) stand and look so that they may have seen any of points (P, 3)."""
        middle = points.mean(0)
        around = (points - middle).norm(dim=1).max()
        pose, lens = self["pose"], self["lens"]
        away = middle - pose[:, :3, 3]
        far = away.norm(dim=1).clamp(min=1e-9)
        corner = torch.maximum(lens[:, 2:], 1 - lens[:, 2:]) / lens[:, :2]
        wide = corner.norm(dim=1).atan()
        aside = ((away * pose[:, :3, 2]).sum(1) / far).clamp(-1, 1).acos()
        reach = self["reach"] * (1 + SHARE) / wide.cos() + self.size
        return (far <= around + reach) & (aside <= wide + (around / far).clamp(max=1).asin()) \
            | (far <= around)

    def check(self, tree: Mapping[str, Tensor]) -> None:
        """LociError for frames of another form, and for damaged ones."""
        super().check(tree)
        keys, near, far, lens = (tree[name] for name in ("keys", "near", "far", "lens"))
        deep = (near > 0) & (near <= far) & far.isfinite() | (near == 0) & (far == 0)
        if not bool(deep.all() & (keys >= 0).all() & ((lens > 0) & lens.isfinite()).all()):
            raise LociError("damaged frames in an index of views; give one that was saved whole")
        if len(keys):
            checked_poses(tree["pose"][None])


def small(depth: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The nearest and the farthest depth in each of side x side cells of an image (H, W), 0 where
    a cell knows none."""
    known = depth.float().clamp(LEAST, MOST)[None, None]
    unknown = (depth == 0)[None, None]
    far = F.adaptive_max_pool2d(known.masked_fill(unknown, 0), side).flatten()
    near = -F.adaptive_max_pool2d(-known.masked_fill(unknown, torch.inf), side).flatten()
    return near.masked_fill(far == 0, 0), far
