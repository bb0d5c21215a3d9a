"""Which frames of a stream saw what, and which of them a chunk should see again.

Of every frame its pose and a small depth image are kept; of all together a coarse map of voxels.
The map, drawn from where a chunk stands, says which known points it will see (what hides what from
there); the small depth images say which frames saw those points (what hid what from them). So a
camera behind a wall counts for nothing, however much of the place lies in its view.

Two rules choose: `cover`, ours, the frames that together show most of the whole chunk; `vote`,
VMem's (arXiv 2506.18903), those for which the surfels in view vote.
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
from loci.geometry.cells import pack
from loci.geometry.depth import check_depth, check_intrinsics, unproject
from loci.geometry.scene_map import View
from loci.geometry.sightings import Sightings
from loci.geometry.splat import splat
from loci.geometry.voxels import STEPS, VoxelMap

# The coarse map takes so many pixels a cell of the small images at least, along either axis.
DENSE = 4
# Up to FEW frames are all looked at closely; of more, at each step, the FRAMES that show most of
# POINTS points.
FEW, POINTS, FRAMES = 128, 64, 64
# A vote of one, as a whole number: sums do not depend on their order.
VOTE = 1 << 16
# As VMem's released code has it: candidates beside those that are wanted, radians that a metre
# counts for, and by how much neighbours may come closer where there are too few.
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
    """What a chunk will see of the map, a point for each pixel: points (P, 3) in the map's
    coordinates, fp64; facing (P, 3), normals towards the chunk, as long as they are certain; votes
    (P,) in VMem's sense; and how many pixels there are, the unknown ones included."""

    points: Tensor
    facing: Tensor
    votes: Tensor
    pixels: int

    def some(self, count: int) -> _Target:
        """As many points, evenly spread over the pixels."""
        step = torch.arange(count, device=self.points.device)
        at = (2 * step + 1) * len(self.points) // (2 * count)
        return replace(
            self, points=self.points[at], facing=self.facing[at], votes=self.votes[at]
        )


class ViewIndex:
    """Frames of one place, by what they saw. voxel: of the coarse map, in metres. side: rows and
    columns of the small depth images; targets are drawn in as many pixels."""

    def __init__(self, voxel: float = 0.2, side: int = 16, device: torch.device | None = None):
        if side < 2:
            raise LociError(f"depth images of {side}x{side}; give 2 or more")
        self.side = side
        self.map = VoxelMap(voxel, channels=0, ring=0, device=device)
        self.frames = Sightings(side, voxel, self.map.device)
        # Points and normals of the map, until it changes.
        self._surface: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def add(self, view: View) -> None:
        """Take in a frame; its payload plays no part. LociError, with nothing changed, for a frame
        that is there already, and for depth, intrinsics and poses that are none."""
        view = self._checked(view)
        key = torch.tensor([view.frame], device=self.map.device)
        if view.frame < 0 or int(self.frames.find(key)) >= 0:
            raise LociError(f"frame {view.frame} is there already; number frames from 0, each once")
        self.map.write(self._thin(view))
        self.frames.add(view, self.map.anchor @ view.pose)
        self._surface = None

    def revealed(self, view: View) -> float:
        """The share of a view's known pixels whose place no frame saw before; 1 if there is none.

        A place was seen where the map has a voxel within a quarter of one: a wall between two
        voxels is not new whenever it falls into the other. Source: what SPMem's write rule asks
        (arXiv 2506.05284); the paper does not say how it counts.
        """
        view = self._thin(self._checked(view))
        pose = self.map.anchor @ view.pose
        points = unproject(view.depth[None], view.intrinsics[None], pose[None])[0][view.depth > 0]
        seen = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for corner in range(8):
            aside = points.new_tensor([corner & 1, corner >> 1 & 1, corner >> 2]) / 2 - 0.25
            seen |= self.map.cells.find(pack((points / self.map.size + aside).floor())) >= 0
        return 1 - float(seen.double().mean())

    def cover(
        self, poses: Tensor, intrinsics: Tensor, height: int, width: int, count: int,
        taken: Sequence[int] = (), least: float = 0.0,
    ) -> Choice:
        """Up to `count` frames that together show most of what is known of a whole chunk, seen from
        poses (n, 4, 4) through intrinsics (3, 3) of images of height x width.

        Each is the one that shows most pixels which no frame taken so far does, `taken` being there
        from the start. Where none adds more than `least` of the pixels, the places left go to those
        that show most of the chunk: a second look at a pixel still says something. Of equals the
        latest comes first. There are fewer frames where no other shows more than `least` of the
        pixels: not enough evidence. LociError for poses and intrinsics that are none. Source: ours;
        greedy maximum coverage (Nemhauser, Wolsey and Fisher, 1978).
        """
        target, had = self._target(poses, intrinsics, height, width), self._rows(taken)
        rows = self._candidates(target, had, count)
        shown, covered = self._shown(rows, target), self._shown(had, target).any(0)
        picks: list[int] = []
        counted, enough = shown.float(), least * target.pixels  # up to 2^24 pixels exactly
        while len(picks) < count and len(rows):
            gain = counted @ (~covered).float()
            best = _last_best(gain)
            if float(gain[best]) <= enough:
                break
            picks.append(best)
            covered = covered | shown[best]
        most = counted.sum(1)
        most[picks] = 0
        order = _best_first(most)
        picks += order[most[order] > enough][: count - len(picks)].tolist()
        return self._choice(target, rows[picks], covered | shown[picks].any(0))

    def vote(
        self, poses: Tensor, intrinsics: Tensor, height: int, width: int, count: int,
        taken: Sequence[int] = (), least: float = 0.0,
    ) -> Choice:
        """Up to `count` frames for which the surfels in view vote, as VMem has it: a pixel gives
        cos / (1 + depth) to all frames that saw its surfel, and of frames with neighbouring poses
        only the one with most votes is taken, as long as there are others.

        Arguments as in `cover`; a frame has to have seen more than `least` of the pixels. The paper
        looks from the mean pose of a chunk; here all of them vote.
        """
        target, had = self._target(poses, intrinsics, height, width), self._rows(taken)
        rows = self._candidates(target, had, 0)
        shown = self._shown(rows, target)
        order = _best_first(shown.double() @ target.votes.double())
        order = order[shown[order].sum(1) > least * target.pixels][: count + SPARE]
        poses = self.frames["pose"][torch.cat([had, rows[order]])]
        picks = order[_apart(poses, len(had), count)]
        covered = self._shown(had, target).any(0) | shown[picks].any(0)
        return self._choice(target, rows[picks], covered)

    def _shown(self, rows: Tensor, target: _Target) -> Tensor:
        return self.frames.saw(rows, target.points, target.facing)

    def _target(self, poses: Tensor, intrinsics: Tensor, height: int, width: int) -> _Target:
        """What a chunk will see of the map, drawn in about side x side square pixels."""
        check_intrinsics(intrinsics[None], height, width)
        poses = self.map.anchor @ checked_poses(poses[None], (1, "n"))[0].to(self.map.device)
        if self._surface is None:
            weight = self.map.cells["weight"].double().clamp(min=1)[:, None]
            # Of a voxel that was seen from both sides the mean normal is short, and says little.
            self._surface = self.map.points(), self.map.cells["normal"] / (STEPS * weight)
        surface, normals = self._surface
        shape = math.sqrt(width / height)
        lines, columns = (max(round(self.side * part), 1) for part in (1 / shape, shape))
        small = intrinsics.to(poses) * poses.new_tensor([[columns / width], [lines / height], [1]])
        board = torch.arange(lines)[:, None] + torch.arange(columns)
        points, facing, votes, pixels = [], [], [], 0
        for number, pose in enumerate(poses):
            # Poses of a chunk are nearly one: each looks at its half of a chessboard.
            own = ((board + number) % min(len(poses), 2) == 0).to(pose.device)
            pixels += int(own.sum())
            place, drawn = pose[:3, 3], splat(surface, self.map.size, small, pose, lines, columns)
            line, column = (drawn.covered & own).nonzero(as_tuple=True)
            voxel, depth = drawn.number[line, column], drawn.depth[line, column].double()
            ray = torch.stack([
                (column + 0.5 - small[0, 2]) / small[0, 0],
                (line + 0.5 - small[1, 2]) / small[1, 1], torch.ones_like(depth),
            ], dim=1) @ pose[:3, :3].T
            normal = normals[voxel]
            along = (ray * normal).sum(1)
            # A pixel sees the plane through a voxel's point, unless that leaves the voxel.
            plane = ((surface[voxel] - place) * normal).sum(1) / along
            within = (plane - depth).abs() < depth.clamp(max=self.map.size)
            depth = torch.where(within, plane, depth)
            cosine = F.cosine_similarity(ray, normal).abs()
            points.append(place + depth[:, None] * ray)
            facing.append(-along.sign()[:, None] * normal)
            votes.append((VOTE * cosine / (1 + depth)).round().long())
        return _Target(torch.cat(points), torch.cat(facing), torch.cat(votes), pixels)

    def _candidates(self, target: _Target, had: Tensor, steps: int) -> Tensor:
        """Rows of the frames that may be chosen, in their order.

        Where they are many, poses say which may see the target at all, and some of its points which
        of these show most, then, for as many steps, which show most of what the best do not.
        """
        free = torch.ones(len(self.frames), dtype=torch.bool, device=self.map.device)
        free[had] = False
        if len(free) <= FEW or not len(target.points):
            return free.nonzero()[:, 0]
        rows = (free & self.frames.towards(target.points)).nonzero()[:, 0]
        if len(rows) <= FEW:
            return rows
        some = target.some(POINTS)
        missing = ~self._shown(had, some).any(0)
        shown = self._shown(rows, some).float()
        found = torch.zeros_like(rows, dtype=torch.bool)
        found[_best_first(shown.sum(1))[:FRAMES]] = True
        for _ in range(steps):
            gain = shown @ missing.float()
            if not bool(gain.any()):
                break
            best = _best_first(gain)[:FRAMES]
            found[best] = True
            missing &= shown[best[0]] == 0
        return rows[found]

    def _rows(self, frames: Sequence[int]) -> Tensor:
        """Where frames stand. Those that the index does not have, for want of depth, are left out:
        they show nothing that it knows of."""
        numbers = torch.tensor(sorted(set(frames)), dtype=torch.int64, device=self.map.device)
        found = self.frames.find(numbers)
        return found[found >= 0]

    def _choice(self, target: _Target, rows: Tensor, covered: Tensor) -> Choice:
        return Choice(
            self.frames.keys[rows].tolist(), len(target.points) / target.pixels,
            int(covered.sum()) / target.pixels,
        )

    def _checked(self, view: View) -> View:
        """A view, if its depth, intrinsics and pose are some."""
        check_depth(view.depth[None])
        check_intrinsics(view.intrinsics[None], *view.depth.shape)
        pose = checked_poses(view.pose[None, None])[0, 0]
        device = self.map.device
        return replace(
            view, depth=view.depth.to(device), intrinsics=view.intrinsics.to(device).double(),
            pose=pose.to(device),
        )

    def _thin(self, view: View) -> View:
        """A view as the coarse map takes it: some of many pixels, and no payload."""
        depth, matrix = view.depth, view.intrinsics.clone()
        step = max(max(depth.shape) // (DENSE * self.side), 1)
        first = step // 2
        if bool((depth[first::step, first::step] > 0).any()):
            depth = depth[first::step, first::step]
            matrix[:2] /= step
            matrix[:2, 2] += 0.5 - (first + 0.5) / step
        none = torch.zeros(*depth.shape, 0, dtype=torch.uint8, device=depth.device)
        return replace(view, depth=depth, intrinsics=matrix, payload=none)

    def reanchor(self, change: Tensor) -> None:
        """Poses are given in other coordinates from here on, as in `SceneMap.reanchor`: the map and
        all frames move together."""
        self.map.reanchor(change)

    def tree(self) -> dict[str, Tensor]:
        """The whole index as tensors, copied."""
        parts = {"map": self.map.tree(), "frames": self.frames.tree()}
        return {f"{name}.{k}": v for name, tree in parts.items() for k, v in tree.items()}

    def check(self, tree: Mapping[str, Tensor]) -> None:
        """LociError for an index of another form or with other voxels, and for a damaged one."""
        self.map.check(_below(tree, "map"))
        self.frames.check(_below(tree, "frames"))

    def restore(self, tree: Mapping[str, Tensor]) -> None:
        """Take over an index that `check` let pass, copied."""
        self.map.restore(_below(tree, "map"))
        self.frames.restore(_below(tree, "frames"))
        self._surface = None

    @property
    def bytes(self) -> int:
        return self.map.bytes + self.frames.bytes


def _below(tree: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The parts of a tree under a name."""
    return {k[len(name) + 1 :]: v for k, v in tree.items() if k.startswith(f"{name}.")}


def _last_best(values: Tensor) -> int:
    """Where the largest of values (n,) stands; of equals the last."""
    return len(values) - 1 - int(values.flip(0).argmax())


def _best_first(values: Tensor) -> Tensor:
    """Where values (n,) stand, the largest first; of equals the last."""
    return len(values) - 1 - values.flip(0).argsort(descending=True, stable=True)


def _apart(poses: Tensor, had: int, count: int) -> list[int]:
    """VMem's suppression of neighbours: which of the poses (n, 4, 4) after the first `had`, which
    are taken, the best first.

    A pose is passed over that is nearer to one that is taken than half of all pairs are. If that
    leaves too few, it may come closer and closer.
    """
    turn, place = poses[:, :3, :3], poses[:, :3, 3]
    # The chord between rotations, sqrt(8) sin(angle / 2), is exact for small angles.
    chord = (turn[:, None] - turn).flatten(2).norm(dim=2)
    apart = 2 * (chord / 8**0.5).clamp(max=1).asin()
    apart = apart + METRE * (place[:, None] - place).norm(dim=2)
    free = len(poses) - had
    pairs = torch.triu_indices(free, free, 1) + had
    within = float(apart[pairs[0], pairs[1]].median()) if free > 1 else 0.0
    while True:
        taken = list(range(had))
        for number in range(had, len(poses)):
            if len(taken) < had + count and bool((apart[number, taken] >= within).all()):
                taken.append(number)
        if len(taken) == had + min(count, free):
            return [number - had for number in taken[had:]]
        within = within / RELAX if within > 1e-5 else 0.0
