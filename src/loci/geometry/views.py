"""Which frames of a stream saw what, and which of them a chunk should see again.

Of every frame its pose and a small depth image are kept; of all together a coarse map of voxels.
The map, drawn from where the chunk stands, says which known points it will see (occlusion at the
target); the small depth images say which frames saw those points (occlusion at the frame), walls
between them included. Two rules choose: `cover`, ours, the frames that together show most of the
whole chunk; `vote`, VMem's (arXiv 2506.18903, Section 3.2), those that surfels vote for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from loci.errors import LociError
from loci.geometry import checked_poses
from loci.geometry.cells import Cells, pack
from loci.geometry.depth import check_depth, check_intrinsics, unproject
from loci.geometry.scene_map import View
from loci.geometry.splat import splat
from loci.geometry.voxels import VoxelMap

# A point agrees with a depth that is off by this share of it, and by this share of a voxel.
SHARE, SLACK = 0.05, 0.5
# Depths of a cell that are further apart than this belong to two surfaces with nothing in between.
EDGE = 1.3
# A camera sees nothing that is nearer, in metres.
NEAR = 0.02
# Frames up to which all are looked at; beyond, so many points and frames a step choose which.
FEW, POINTS, FRAMES = 512, 48, 64
# A vote of one, in whole numbers, so that sums do not depend on their order.
VOTE = 1 << 16
# The coarse map takes about so many pixels a cell of the small images, along either axis.
DENSE = 4
GRID, WITHIN = 0, 1.0
# Of VMem's released code: candidates beyond those that are wanted, radians that a metre counts for,
# and by how much neighbours may be nearer where there are too few.
SPARE, METRE, RELAX = 10, 0.1, 1.2


@dataclass(frozen=True)
class Choice:
    """frames: the best first. known: share of the target's pixels whose place any frame saw.
    covered: share that the frames taken before and these show, as far as the index can tell."""

    frames: list[int]
    known: float
    covered: float


@dataclass(frozen=True)
class _Target:
    """What a chunk will see of the map: points (P, 3) in the map's coordinates, fp64; pixels (P,)
    that each fills; votes (P,) of it, in VMem's sense; all pixels there are."""

    points: Tensor
    pixels: Tensor
    votes: Tensor
    total: int


class ViewIndex:
    """Frames of one place, by what they saw. voxel: of the coarse map, in metres. side: rows and
    columns of the small depth images, and the size in which targets are drawn."""

    def __init__(self, voxel: float = 0.2, side: int = 16, device: torch.device | None = None):
        if side < 2:
            raise LociError(f"depth images of {side}x{side}; give 2 or more")
        self.side = side
        self.map = VoxelMap(voxel, channels=0, ring=1, device=device)
        cells = ((side * side,), torch.float16, 0)
        self.frames = Cells({
            "pose": ((4, 4), torch.float64, 0), "lens": ((4,), torch.float64, 0),
            "near": cells, "far": cells,
        }, self.map.device)
        self._surface: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def add(self, view: View) -> None:
        """Take in a frame. LociError, with nothing changed, for a frame that is there already, and
        for depth, intrinsics and poses that are none."""
        key = torch.tensor([view.frame], device=self.map.device)
        if view.frame < 0 or int(self.frames.find(key)) >= 0:
            raise LociError(f"frame {view.frame} is there already; number frames from 0, each once")
        view = self._checked(view)
        self.map.write(self._thin(view))
        row = self.frames.insert(key)
        near, far = _cells(view.depth.to(self.map.device), self.side)
        height, width = view.depth.shape
        matrix = view.intrinsics.double()
        lens = torch.stack([
            matrix[0, 0] / width, matrix[1, 1] / height, matrix[0, 2] / width, matrix[1, 2] / height
        ])
        for name, value in (
            ("pose", self.map.anchor @ view.pose), ("lens", lens), ("near", near), ("far", far)
        ):
            self.frames[name][row] = value.to(self.frames[name])
        self._surface = None

    def revealed(self, view: View) -> float:
        """The share of a view's known pixels whose place no frame saw before: 1 if there is none.

        A place counts as seen where the map has a voxel within a quarter of one, so that a wall
        between two voxels is not new each time it falls into the other. Source: what the write rule
        of SPMem (Section 3.3) asks; how it is counted is ours.
        """
        view = self._thin(self._checked(view))
        known = view.depth > 0
        points = unproject(
            view.depth[None], view.intrinsics[None], (self.map.anchor @ view.pose)[None]
        )[0][known].to(self.map.device) / self.map.size
        seen = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for corner in range(8):
            aside = points.new_tensor([corner & 1, corner >> 1 & 1, corner >> 2]) / 2 - 0.25
            seen |= self.map.cells.find(pack((points + aside).floor())) >= 0
        return 1 - float(seen.double().mean())

    def cover(
        self, poses: Tensor, intrinsics: Tensor, height: int, width: int, count: int,
        taken: Sequence[int] = (), least: float = 0.0,
    ) -> Choice:
        """Up to `count` frames that together show most of what is known of a whole chunk, seen from
        poses (n, 4, 4) through intrinsics (3, 3) of images of height x width.

        Each is the one that shows most pixels which no frame taken so far does, `taken` being there
        from the start; of equals the latest. Fewer frames where none adds more than `least` of the
        pixels: then there is not enough evidence. Source: ours; greedy maximum coverage (Nemhauser,
        Wolsey and Fisher, 1978) over points that frames saw, not over what lies in their view.
        """
        target = self._target(poses, intrinsics, height, width)
        had = self._rows(taken)
        rows = self._candidates(target, target.pixels, had, count)
        shown = self.saw(rows, target.points)
        covered = self.saw(had, target.points).any(0)
        picks = _greedy(shown, target.pixels, covered, count, least * target.total)
        for pick in picks:
            covered = covered | shown[pick]
        return self._choice(target, rows[picks], covered)

    def vote(
        self, poses: Tensor, intrinsics: Tensor, height: int, width: int, count: int,
        taken: Sequence[int] = (), least: float = 0.0,
    ) -> Choice:
        """Up to `count` frames that the surfels in view vote for, as VMem has it: each pixel gives
        cos / (1 + depth) to all frames that saw its surfel, and of frames whose poses are
        neighbours only the one with most votes is taken, as long as there are others.

        Arguments as in `cover`; a frame has to have seen more than `least` of the pixels. Where the
        paper looks from the mean pose of a chunk, all poses vote here.
        """
        target = self._target(poses, intrinsics, height, width)
        had = self._rows(taken)
        rows = self._candidates(target, target.votes, had, 1)
        shown = self.saw(rows, target.points)
        enough = shown.double() @ target.pixels.double() > least * target.total
        votes = (shown.double() @ target.votes.double()).masked_fill(~enough, 0)
        order = votes.flip(0).sort(descending=True, stable=True).indices
        order = (len(rows) - 1 - order)[: count + SPARE]
        order = order[votes[order] > 0]
        rows, shown = rows[order], shown[order]
        picks = _apart(self.frames["pose"][torch.cat([had, rows])], len(had), count)
        covered = self.saw(had, target.points).any(0) | shown[picks].any(0)
        return self._choice(target, rows[picks], covered)

    def saw(self, rows: Tensor, points: Tensor) -> Tensor:
        """Which points (P, 3), in the map's coordinates, the frames of rows (n,) saw: (n, P).

        A frame saw a point that lies in its view at the depth that its small image has there. Where
        that has two surfaces, the point is on one of them, and not between.
        """
        if not len(points) or not len(rows):
            return torch.zeros(len(rows), len(points), dtype=torch.bool, device=points.device)
        # Near the points, single precision is enough wherever the place lies.
        middle = points.mean(0)
        pose, lens = self.frames["pose"][rows], self.frames["lens"][rows] * self.side
        turn = pose[:, :3, :3].mT
        away = turn @ (middle - pose[:, :3, 3])[..., None]
        local = torch.cat([turn, away], dim=2)
        local[:, :2] = lens[:, :2, None] * local[:, :2] + lens[:, 2:, None] * local[:, 2:]
        apart = torch.cat([points - middle, torch.ones_like(points[:, :1])], dim=1).float()
        u, v, z = (local.float().flatten(0, 1) @ apart.T).view(len(rows), 3, -1).unbind(1)
        ahead = z.clamp(min=NEAR)
        column, line = (u / ahead).floor(), (v / ahead).floor()
        inside = (z > NEAR) & (column >= 0) & (column < self.side)
        inside &= (line >= 0) & (line < self.side)
        cell = (line * self.side + column).clamp_(0, self.side**2 - 1).long()
        near = self.frames["near"][rows].gather(1, cell).float()
        far = self.frames["far"][rows].gather(1, cell).float()
        slack = SHARE * z + SLACK * self.map.size
        at_near, at_far = (z - near).abs() <= slack, (z - far).abs() <= slack
        between = (z >= near) & (z <= far) & (far <= EDGE * near)
        return inside & (far > 0) & (at_near | at_far | between)

    def _target(self, poses: Tensor, intrinsics: Tensor, height: int, width: int) -> _Target:
        poses = checked_poses(poses[None], (1, "n"))[0].to(self.map.device)
        check_intrinsics(intrinsics[None], height, width)
        if self._surface is None:
            self._surface = self.map.points(), self.map.normals()
        points, normals = self._surface
        # As many pixels as the small images have, and square ones.
        shape = math.sqrt(width / height)
        grid = GRID or self.side
        rows, columns = max(round(grid / shape), 1), max(round(grid * shape), 1)
        scale = poses.new_tensor([columns / width, rows / height, 1.0])
        small = intrinsics.to(poses) * scale[:, None]
        seen, votes = [], []
        for pose in self.map.anchor @ poses:
            drawn = splat(points, self.map.size, small, pose, rows, columns)
            number, depth = drawn.number[drawn.covered], drawn.depth[drawn.covered].double()
            line, column = drawn.covered.nonzero(as_tuple=True)
            ray = torch.stack([
                (column + 0.5 - small[0, 2]) / small[0, 0], (line + 0.5 - small[1, 2]) / small[1, 1],
                torch.ones_like(depth),
            ], dim=1) @ pose[:3, :3].T
            facing, normal = (ray * normals[number]).sum(1), normals[number]
            there = ((points[number] - pose[:3, 3]) * normal).sum(1) / facing
            near = (there - depth).abs() <= WITHIN * self.map.size
            there = torch.where(near, there, depth)
            seen.append(pose[:3, 3] + ray * there[:, None])
            facing = facing.abs() / ray.norm(dim=1)
            votes.append((VOTE * facing / (1 + there)).round().long())
        seen, votes = torch.cat(seen), torch.cat(votes)
        return _Target(seen, torch.ones_like(votes), votes, len(poses) * rows * columns)

    def _candidates(self, target: _Target, weights: Tensor, had: Tensor, steps: int) -> Tensor:
        """Rows of the frames that may be chosen, in order.

        All of them, if they are few. Else a few of the points, spread by their weights, say which
        frames would be worth most for each of the first `steps` that are taken.
        """
        rows = torch.arange(len(self.frames), device=self.map.device)
        free = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        free[had] = False
        if len(rows) <= FEW or not len(target.points):
            return rows[free]
        ends = weights.cumsum(0)
        at = (torch.arange(POINTS, device=rows.device) * 2 + 1) * ends[-1] // (2 * POINTS)
        some = torch.searchsorted(ends, at, right=True).clamp(max=len(ends) - 1)
        shown = self.saw(rows, target.points[some])
        missing = ~shown[had].any(0)
        found = torch.zeros_like(free)
        shown = shown.float()
        for _ in range(steps):
            gain = shown @ missing.float()
            gain[~free] = -1
            best = (gain * len(rows) + rows).topk(min(FRAMES, len(rows))).indices
            found[best] = True
            if gain[best[0]] <= 0:
                break
            missing &= shown[best[0]] == 0
            free[best[0]] = False
        free[had] = False
        return rows[found]

    def _rows(self, frames: Sequence[int]) -> Tensor:
        """Where frames stand; those that the index does not have, for want of depth, show nothing
        that it knows of."""
        numbers = torch.tensor(sorted(set(frames)), dtype=torch.int64, device=self.map.device)
        found = self.frames.find(numbers)
        return found[found >= 0]

    def _choice(self, target: _Target, rows: Tensor, covered: Tensor) -> Choice:
        return Choice(
            self.frames.keys[rows].tolist(), int(target.pixels.sum()) / target.total,
            int(target.pixels[covered].sum()) / target.total,
        )

    def _checked(self, view: View) -> View:
        """A view whose depth, intrinsics and pose are some."""
        check_depth(view.depth[None])
        check_intrinsics(view.intrinsics[None], *view.depth.shape)
        pose = checked_poses(view.pose[None, None])[0, 0].to(self.map.device)
        return replace(view, depth=view.depth.to(self.map.device), pose=pose)

    def _thin(self, view: View) -> View:
        """A view as the coarse map takes it: without a payload, and with some pixels of many."""
        height, width = view.depth.shape
        step = max(1, max(height, width) // (DENSE * self.side))
        depth, matrix, first = view.depth, view.intrinsics.double().clone(), step // 2
        if bool((depth[first::step, first::step] > 0).any()):
            depth = depth[first::step, first::step]
            matrix[:2] /= step
            matrix[:2, 2] += 0.5 - (first + 0.5) / step
        return replace(
            view, depth=depth, intrinsics=matrix,
            payload=torch.zeros(*depth.shape, 0, dtype=torch.uint8, device=depth.device),
        )

    def reanchor(self, change: Tensor, gauge: int) -> None:
        """Poses are given in a new gauge from here on, as in `SceneMap.reanchor`."""
        self.map.reanchor(change, gauge)

    def tree(self) -> dict[str, Tensor]:
        """The whole index as tensors, copied."""
        return {
            f"{name}.{part}": value for name, kept in (("map", self.map), ("frames", self.frames))
            for part, value in kept.tree().items()
        }

    def check(self, tree: Mapping[str, Tensor]) -> None:
        """LociError for an index of another form, a damaged one, or one with other voxels."""
        self.map.check(_part(tree, "map"))
        frames = _part(tree, "frames")
        self.frames.check(frames)
        keys, near, far, lens = (frames[name] for name in ("keys", "near", "far", "lens"))
        if len(keys):
            checked_poses(frames["pose"][None])
        if bool((keys < 0).any() | (lens[:, :2] <= 0).any()) or not bool(
            torch.isfinite(lens).all() & (((near > 0) & (near <= far)) | (far == 0)).all()
        ):
            raise LociError("a damaged index of views; give one that was saved whole")

    def restore(self, tree: Mapping[str, Tensor]) -> None:
        """Take over an index that `check` let pass, copied."""
        self.map.restore(_part(tree, "map"))
        self.frames.restore(_part(tree, "frames"))
        self._surface = None

    @property
    def bytes(self) -> int:
        return self.map.bytes + self.frames.bytes


def _part(tree: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.partition(".")[2]: v for k, v in tree.items() if k.startswith(f"{name}.")}


def _cells(depth: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The nearest and the farthest depth in each of side x side cells of an image (H, W), 0 where
    a cell knows none."""
    known = depth.float()[None, None]
    far = F.adaptive_max_pool2d(known, side).flatten()
    hidden = known.masked_fill(known <= 0, torch.inf)
    near = -F.adaptive_max_pool2d(-hidden, side).flatten()
    return near.masked_fill(far == 0, 0), far


def _greedy(
    shown: Tensor, pixels: Tensor, covered: Tensor, count: int, least: float
) -> list[int]:
    """Rows of shown (n, P) that together cover most pixels (P,) beside those that are covered (P,),
    as long as one adds more than `least`; of equals the last."""
    picks: list[int] = []
    worth, covers = (pixels * ~covered).double(), shown.double()
    while len(picks) < count and len(shown):
        gain = covers @ worth
        best = len(gain) - 1 - int(gain.flip(0).argmax())
        if gain[best] <= least:
            break
        picks.append(best)
        worth = worth * ~shown[best]
    return picks


def _apart(poses: Tensor, had: int, count: int) -> list[int]:
    """Which of the candidates' poses (n, 4, 4), best first after `had` of frames that are taken,
    VMem's suppression of neighbours takes; numbers of candidates.

    Two poses are neighbours below a distance, at first the median one of all candidates. Where too
    few are left it shrinks until there are enough.
    """
    turn, place = poses[:, :3, :3], poses[:, :3, 3]
    # The chord between rotations, sqrt(8) sin(angle / 2), is exact where they are nearly equal.
    chord = (turn[:, None] - turn).flatten(2).norm(dim=2)
    distance = 2 * (chord / 8**0.5).clamp(max=1).asin() + METRE * torch.cdist(place, place)
    candidates = distance[had:, had:]
    wanted = min(count, len(candidates))
    within = float(candidates[~torch.eye(len(candidates), dtype=torch.bool)].median()) \
        if len(candidates) > 1 else 0.0
    while True:
        taken = list(range(had))
        for number in range(had, len(distance)):
            if len(taken) < had + wanted and not bool((distance[number, taken] < within).any()):
                taken.append(number)
        if len(taken) == had + wanted:
            return [number - had for number in taken[had:]]
        within = within / RELAX if within > 1e-5 else 0.0
