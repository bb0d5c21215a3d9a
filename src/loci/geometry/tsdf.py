"""A truncated signed distance, as SPMem fuses it (arXiv 2506.05284, Section 3.2).

Around every surface that was seen, voxels hold their mean distance to it along the camera's axis,

    D <- (W D + d) / (W + 1),    W <- W + 1,    d = clamp((depth - z) / truncation, -1, 1),

where a view sees them in front of the surface or little behind it. What moves is to vanish in the
average: voxels in free space count as 1. Voxels exist once a view saw a surface near them; views
that saw only free space there before do not count. Points stand where the distance changes its sign
between neighbours, with the colour of the nearer of the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loci.geometry.cells import STRIDES, Cells, make_room, pack, unpack
from loci.geometry.depth import project, unproject
from loci.geometry.scene_map import MIDDLE, SceneMap, Surface, View
from loci.geometry.splat import NEAR

UNIT = 127  # whole numbers to a truncation
AXES = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


class TSDF(SceneMap):
    """Voxels around the surfaces that were seen. truncation: voxels on either side of one."""

    def __init__(
        self, size: float, channels: int = 3, truncation: int = 5,
        device: torch.device | None = None,
    ):
        device = torch.device("cpu") if device is None else device
        super().__init__(size, channels, device)
        self.truncation = truncation
        self.cells = Cells({
            "weight": ((), torch.uint8, 0), "distance": ((), torch.int16, 0),
            "seen": ((), torch.uint8, 0), "payload": ((channels,), torch.int16, 0),
            "last": ((), torch.int32, -1),
        }, device)

    def fuse(self, view: View) -> None:
        depth, matrix = view.depth.to(self.device), view.intrinsics.to(self.device)
        self._allocate(depth, matrix, view.pose)
        centres = (unpack(self.cells.keys) + 0.5) * self.size
        where, z = project(centres, matrix, view.pose)
        height, width = depth.shape
        u, v = where.floor().long().unbind(1)
        inside = (z > NEAR) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        (rows,) = inside.nonzero(as_tuple=True)
        at = (v[rows], u[rows])
        ahead = (depth[at].double() - z[rows]) / (self.truncation * self.size)
        updated = (depth[at] > 0) & (ahead >= -1)
        rows, at, ahead = rows[updated], (at[0][updated], at[1][updated]), ahead[updated]
        make_room(self.cells, rows, ("distance", "seen", "payload"))
        self.cells["weight"][rows] += 1
        self.cells["distance"][rows] += (ahead.clamp(max=1) * UNIT).round().short()
        close = ahead < 1
        near = rows[close]
        self.cells["seen"][near] += 1
        colours = view.payload.to(self.device)[at[0][close], at[1][close]]
        self.cells["payload"][near] += colours.short() - MIDDLE
        self.cells["last"][near] = view.frame

    def surface(self) -> Surface:
        cells, weight = unpack(self.cells.keys), self.cells["weight"].double()
        distance = self.cells["distance"].double() / weight.clamp(min=1) / UNIT
        points, rows, order = [], [], []
        for number, axis in enumerate(AXES):
            step = torch.tensor(axis, device=self.device)
            other = self.cells.find(self.cells.keys + STRIDES[number])
            here = ((other >= 0) & (weight > 0) & (weight[other] > 0)).nonzero()[:, 0]
            there = other[here]
            a, b = distance[here], distance[there]
            cross = (a > 0) != (b > 0)
            here, there, a, b = here[cross], there[cross], a[cross], b[cross]
            share = (a / (a - b))[:, None]
            points.append((cells[here] + 0.5 + share * step) * self.size)
            rows.append(torch.where(share[:, 0] < 0.5, here, there))
            order.append(here * len(AXES) + number)
        place = torch.cat(order).argsort()
        at, where = torch.cat(rows)[place], torch.cat(points)[place]
        seen = self.cells["seen"][at].double().clamp(min=1)[:, None]
        payload = (self.cells["payload"][at] / seen + MIDDLE).float()
        return Surface(where, payload, self.cells["weight"][at], self.cells["last"][at], self.size)

    def _allocate(self, depth: Tensor, intrinsics: Tensor, pose: Tensor) -> None:
        """Make room for all voxels within the truncation of what a view sees."""
        known = depth > 0
        found = []
        for step in range(-self.truncation, self.truncation + 1):
            moved = (depth + step * self.size).where(known, 0.0)
            found.append(unproject(moved[None], intrinsics[None], pose[None])[0][moved > 0])
        self.cells.insert(pack((torch.cat(found) / self.size).floor()).unique())
