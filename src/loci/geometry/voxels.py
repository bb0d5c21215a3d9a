"""A map of voxels, each with what was seen in it (ours).

Of a voxel: how many views saw it, the mean of the points, normals and payloads that they saw, their
frames (the last few of them, some apart), the last one, and how many views looked through it since.
What views look through again and again is no longer there, and is carved away; where there are more
voxels than the map may hold, those go that were not seen for longest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loci.errors import LociError
from loci.geometry.cells import MOST, Cells, make_room, pack, unpack
from loci.geometry.depth import normals, project, unproject
from loci.geometry.scene_map import MIDDLE, SceneMap, Surface, View
from loci.geometry.splat import NEAR

# Places within a voxel along an axis, and steps of a normal's component.
FINE, STEPS = 1 << 7, 127


class VoxelMap(SceneMap):
    """Voxels that were seen.

    ring: frames that a voxel remembers (0: none); apart: frames between two of them. limit: voxels
    that are kept (0: all). patience: views that look through a voxel before it is carved away (0:
    none is); margin: voxels by which they have to look past it.
    """

    def __init__(
        self, size: float, channels: int = 3, ring: int = 4, apart: int = 4, limit: int = 0,
        patience: int = 2, margin: float = 2.0, device: torch.device | None = None,
    ):
        device = torch.device("cpu") if device is None else device
        super().__init__(size, channels, device)
        if ring < 0 or apart < 1 or limit < 0 or not 0 <= patience < MOST or margin <= 0:
            raise LociError(
                "ring counts 0 frames or more, apart 1 or more, the limit is 0 or more, the "
                f"patience 0 to {MOST - 1}, the margin above 0"
            )
        self.apart, self.limit, self.patience, self.margin = apart, limit, patience, margin
        self.cells = Cells({
            "weight": ((), torch.uint8, 0), "offset": ((3,), torch.int16, 0),
            "normal": ((3,), torch.int16, 0), "payload": ((channels,), torch.int16, 0),
            "last": ((), torch.int32, -1), "through": ((), torch.uint8, 0),
            "ring": ((ring,), torch.int32, -1),
        }, device)

    def fuse(self, view: View) -> None:
        depth, pose = view.depth.to(self.device), view.pose
        points = unproject(depth[None], view.intrinsics[None].to(self.device), pose[None])
        known = depth > 0
        scaled = points[0][known] / self.size
        cells = scaled.floor()
        keys = pack(cells)
        if self.patience:
            self._carve(view, depth)
        facing = normals(points, depth[None])[0][known]
        keys, place = keys.unique(return_inverse=True)
        new = {
            "offset": ((scaled - cells) * FINE).long().clamp(max=FINE - 1),
            "normal": (facing * STEPS).round().long(),
            "payload": view.payload.to(self.device)[known].long() - MIDDLE,
        }
        rows, pixels = self.cells.insert(keys), place.bincount(minlength=len(keys))[:, None]
        make_room(self.cells, rows, new)
        for name, values in new.items():
            sums = values.new_zeros(len(keys), *values.shape[1:]).index_add_(0, place, values)
            self.cells[name][rows] += (sums / pixels).round().short()
        self.cells["weight"][rows] += 1
        self.cells["last"][rows] = view.frame
        self.cells["through"][rows] = 0
        self._remember(rows, view.frame)
        if self.limit and len(self.cells) > self.limit:
            self._forget(len(self.cells) - self.limit)

    def surface(self) -> Surface:
        weight = self.cells["weight"].double().clamp(min=1)[:, None]
        return Surface(
            self.points(), (self.cells["payload"] / weight + MIDDLE).float(), self.cells["weight"],
            self.cells["last"], self.size,
        )

    def points(self) -> Tensor:
        """Mean points (M, 3) of the voxels, in the map's own coordinates, fp64."""
        weight = self.cells["weight"].double().clamp(min=1)[:, None]
        within = (self.cells["offset"] / weight + 0.5) / FINE
        return (unpack(self.cells.keys) + within) * self.size

    def normals(self) -> Tensor:
        """Mean normals of the voxels; see `SceneMap.normals`."""
        return F.normalize(self.cells["normal"].double(), dim=1)

    def start_over(self, frames: int) -> None:
        super().start_over(frames)
        # The frames themselves are no longer there to be found again.
        self.cells["ring"].fill_(-1)

    def _remember(self, rows: Tensor, frame: int) -> None:
        """Put a frame into the rings of voxels, but where it comes soon after their newest."""
        ring = self.cells["ring"]
        if not ring.shape[1]:
            return
        newest = ring[rows, 0]
        due = rows[(newest < 0) | (frame - newest >= self.apart)]
        before = ring[due, :-1]
        ring[due] = torch.cat([before.new_full((len(due), 1), frame), before], dim=1)

    def _carve(self, view: View, depth: Tensor) -> None:
        """Voxels that a view looks through lose patience; those that it sees get it back."""
        where, z = project(self.points(), view.intrinsics.to(self.device), view.pose)
        height, width = depth.shape
        u, v = where.floor().long().unbind(1)
        inside = (z > NEAR) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        at = (v.clamp(0, height - 1), u.clamp(0, width - 1))
        # Looked through is only what all pixels around look past, unknown ones look past nothing.
        nearest = -F.max_pool2d(-depth[None, None], 3, stride=1, padding=1)[0, 0]
        slack = self.margin * self.size
        through = inside & (z + slack < nearest[at])
        seen = inside & ((z - depth[at]).abs() <= slack)
        count = self.cells["through"]
        count[through & (count < self.patience)] += 1
        count[seen] = 0
        gone = count >= self.patience
        if bool(gone.any()):
            self.cells.keep(~gone)

    def _forget(self, count: int) -> None:
        """Let voxels go: those that were not seen for longest, of these the lightest."""
        order = self.cells["weight"].sort(stable=True).indices
        order = order[self.cells["last"][order].sort(stable=True).indices]
        kept = torch.ones(len(order), dtype=torch.bool, device=self.device)
        kept[order[:count]] = False
        self.cells.keep(kept)
