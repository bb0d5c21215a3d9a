"""What a map of a place is: views go in, renders come out.

Two forms keep it: voxels with what was seen in them (`voxels.py`, ours) and a truncated signed
distance (`tsdf.py`, SPMem). Both count in whole numbers, so that a map is the same, bit for bit,
however its views are grouped.

Views and renders share one frame of coordinates. `reanchor` puts the map into another: only its
anchor changes, no voxel is rounded anew. Which frame that is, a map does not know: streams count
*gauges* (`streaming/stream.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loci.errors import LociError
from loci.geometry import checked_poses
from loci.geometry.cells import Cells
from loci.geometry.depth import check_depth, check_intrinsics
from loci.geometry.splat import splat

# A surface that so many views saw is held for half certain.
HALF = 2.0
# Payloads, 0 to 255, are summed up as what they are above or below the middle: so 255 of them fit
# into 16 bits.
MIDDLE = 128
# Of a map's tree, what is no field of cells.
ASIDE = ("anchor", "size")


@dataclass(frozen=True)
class View:
    """What a camera saw: depth (H, W) in metres, 0 where unknown; payload (H, W, C) uint8, colours
    as a rule; intrinsics (3, 3) in pixels; pose (4, 4) camera-to-world; number of the frame."""

    depth: Tensor
    payload: Tensor
    intrinsics: Tensor
    pose: Tensor
    frame: int


@dataclass(frozen=True)
class Surface:
    """Points that stand for what a map holds: points (M, 3) in the map's own coordinates, payload
    (M, C) 0 to 255, weight (M,) views that saw it, last (M,) frame that did, width of a point in
    metres."""

    points: Tensor
    payload: Tensor
    weight: Tensor
    last: Tensor
    width: float


@dataclass(frozen=True)
class Render:
    """A map as a camera would see it.

    payload (H, W, C) fp32, 0 to 255; depth (H, W) in metres; covered (H, W) booleans: the rest is
    unknown, not black. confidence (H, W) 0 to 1; age (H, W) frames since it was last seen; point
    (H, W, 3) in the frame of the poses, of which a warp into any frame follows.
    """

    payload: Tensor
    depth: Tensor
    covered: Tensor
    confidence: Tensor
    age: Tensor
    point: Tensor


class SceneMap(ABC):
    """A map of one place. size: width of a voxel in metres; channels: numbers of a payload."""

    cells: Cells

    def __init__(self, size: float, channels: int, device: torch.device):
        if size <= 0:
            raise LociError(f"voxels of {size} m; give a width above 0")
        self.size, self.channels, self.device = size, channels, device
        # Poses of views and renders, in the map's own coordinates.
        self.anchor = torch.eye(4, dtype=torch.float64, device=device)

    @abstractmethod
    def fuse(self, view: View) -> None:
        """Take in a view that was checked, its pose in the map's own coordinates."""

    @abstractmethod
    def surface(self) -> Surface:
        """What the map holds, as points in the order of their cells."""

    def normals(self) -> Tensor | None:
        """Normals (M, 3) of the points of the surface, in the map's own coordinates, of length one,
        or zero where none is known. None where a map keeps none."""
        return None

    def write(self, view: View) -> None:
        """Take in a view. LociError, with nothing changed, for depth, intrinsics, payload and poses
        that are none."""
        height, width = view.depth.shape[-2:]
        check_depth(view.depth[None])
        check_intrinsics(view.intrinsics[None], height, width)
        if view.payload.shape != (height, width, self.channels) or \
                view.payload.dtype != torch.uint8:
            raise LociError(
                f"a payload of shape {tuple(view.payload.shape)}; give ({height}, {width}, "
                f"{self.channels}) uint8, a pixel of it for each of the depth"
            )
        self.fuse(replace(view, pose=self.anchor @ self._pose(view.pose)))

    def render(
        self, poses: Tensor, intrinsics: Tensor, height: int, width: int, now: int
    ) -> list[Render]:
        """The map as seen from poses (n, 4, 4) through intrinsics (3, 3), after `now` frames.
        Changes nothing."""
        surface = self.surface()
        return [
            self._draw(surface, self.anchor @ self._pose(pose), intrinsics, height, width, now)
            for pose in poses
        ]

    def _draw(
        self, surface: Surface, pose: Tensor, intrinsics: Tensor, height: int, width: int, now: int
    ) -> Render:
        """A surface as seen from a pose in the map's own coordinates."""
        drawn = splat(surface.points, surface.width, intrinsics, pose, height, width)
        covered, number = drawn.covered, drawn.number.clamp(min=0)

        def of(part: Tensor) -> Tensor:
            """A field of the winners, 0 where there are none."""
            if not len(part):
                return part.new_zeros(height, width, *part.shape[1:])
            found = part[number]
            return found * covered.view(height, width, *[1] * (part.dim() - 1)).to(found.dtype)

        weight = surface.weight.float()
        back = torch.linalg.inv(self.anchor)
        point = of(surface.points) @ back[:3, :3].mT + back[:3, 3]
        return Render(
            of(surface.payload.float()), drawn.depth, covered, of(weight / (weight + HALF)),
            of(now - surface.last), point * covered[..., None],
        )

    def reanchor(self, change: Tensor) -> None:
        """From here on, what stood at P stands at change @ P (4, 4). LociError for what is no rigid
        motion."""
        change = self._pose(change)
        # An empty map has nothing to move: its own coordinates stay those of the poses.
        if len(self.cells):
            self.anchor = self.anchor @ torch.linalg.inv(change)

    def start_over(self, frames: int) -> None:
        """Frames are numbered from 0 again; `frames` were seen, all of them before those."""
        self.cells["last"].sub_(frames)

    def tree(self) -> dict[str, Tensor]:
        """The whole map as tensors, copied."""
        return self.cells.tree() | {
            "anchor": self.anchor.clone(), "size": torch.tensor(self.size, dtype=torch.float64),
        }

    def check(self, tree: Mapping[str, Tensor]) -> None:
        """LociError for a map of another form or with voxels of another size."""
        parts = dict(tree)
        anchor, size = (parts.pop(name, None) for name in ASIDE)
        if anchor is None or size is None:
            raise LociError("this is no map; give the tree of one")
        if float(size) != self.size:
            raise LociError(
                f"a map with voxels of {float(size):g} m, and this memory keeps some of "
                f"{self.size:g} m; give one of the same size"
            )
        self.cells.check(parts)

    def restore(self, tree: Mapping[str, Tensor]) -> None:
        """Take over a map that `check` let pass, copied."""
        self.anchor = tree["anchor"].to(self.device, copy=True)
        self.cells.restore({k: v for k, v in tree.items() if k not in ASIDE})

    @property
    def bytes(self) -> int:
        return self.cells.bytes

    def _pose(self, pose: Tensor) -> Tensor:
        return checked_poses(pose[None, None])[0, 0].to(self.device)
