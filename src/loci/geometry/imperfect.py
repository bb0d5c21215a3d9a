"""Geometry that is off, by stated sizes: what depth and poses would be if they were estimated.

Every number that is drawn belongs to (seed, key, frame): the beginning of a clip is the same
however long the clip is. The first pose, from which all others are measured, is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from loci import seeds
from loci.config import Config
from loci.errors import LociError
from loci.geometry import checked_poses
from loci.geometry.depth import check_depth

# Scale drifts by a factor of a hundred at most, so that depth stays a number.
FARTHEST = math.log(100.0)


@dataclass(frozen=True, kw_only=True)
class Imperfect(Config):
    """How far geometry is off. All are standard deviations but `missing`, a share of pixels, and
    `trend`. Relative ones are of the logarithm of depth: 0.05 is 5 %.

    pixel: of each pixel's depth by itself. scale: of each frame's by itself. missing: pixels whose
    depth is unknown. walk: by which the scale of depth changes from frame to frame, at random;
    trend: by which it changes steadily, either way. metres (along each axis) and degrees (about
    some axis): of each pose by itself. metres_walk, degrees_walk: of each step from frame to frame,
    so that places and headings go astray as in odometry. Raises LociError for settings that are
    none.
    """

    pixel: float = 0.0
    scale: float = 0.0
    missing: float = 0.0
    walk: float = 0.0
    trend: float = 0.0
    metres: float = 0.0
    degrees: float = 0.0
    metres_walk: float = 0.0
    degrees_walk: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or (value < 0 and field.name not in ("trend", "seed")):
                raise LociError(f"imperfect geometry: {field.name} is {value}; give 0 or more")
        if self.missing >= 1:
            raise LociError(
                f"imperfect geometry: {self.missing} of the pixels missing; give a share below 1"
            )

    def apply(self, depth: Tensor, poses: Tensor, key: str) -> tuple[Tensor, Tensor]:
        """Depth (T, H, W) in metres and camera-to-world poses (T, 4, 4), off by this much.

        key: names the clip; the same key gives the same errors. What is unknown stays so, and of a
        frame with known pixels one is known still. Poses come back in float64. Without any error
        the inputs themselves come back. Raises LociError for depth and poses that are none, or not
        of as many frames.
        """
        check_depth(depth, unknown=True)
        exact = checked_poses(poses, (len(depth),))
        wrong_depth = any((self.pixel, self.scale, self.missing, self.walk, self.trend))
        wrong_poses = any((self.metres, self.degrees, self.metres_walk, self.degrees_walk))
        return (
            self._depth(depth, key) if wrong_depth else depth,
            self._poses(exact, key) if wrong_poses else poses,
        )

    def _depth(self, depth: Tensor, key: str) -> Tensor:
        result, drift = torch.empty_like(depth), 0.0
        for frame, exact in enumerate(depth):
            each, step = self._drawn((2,), key, "scale", frame).tolist()
            drift += self.trend + self.walk * step if frame else 0.0
            off = max(-FARTHEST, min(FARTHEST, drift)) + self.scale * each
            pixels = self.pixel * self._drawn(tuple(exact.shape), key, "pixel", frame)
            known = exact > 0
            # What is known stays known where its depth is hardly above 0 already.
            scaled = exact.double().cpu() * (pixels + off).exp()
            scaled = scaled.to(exact).clamp(min=torch.finfo(exact.dtype).tiny)
            result[frame] = scaled * (known & ~self._gone(known, key, frame))
        return result

    def _gone(self, known: Tensor, key: str, frame: int) -> Tensor:
        """Which pixels (H, W) are lost; never the last known one."""
        if not self.missing or not bool(known.any()):
            return torch.zeros_like(known)
        draw = torch.Generator().manual_seed(self._seed(key, "missing", frame))
        lot = torch.rand(known.shape, generator=draw, dtype=torch.float64).to(known.device)
        return (lot < self.missing) & (lot < lot[known].max())

    def _poses(self, poses: Tensor, key: str) -> Tensor:
        result, astray = poses.clone(), poses[0]
        walks = self.metres_walk > 0 or self.degrees_walk > 0
        for frame in range(1, len(poses)):
            if walks:
                step = torch.linalg.inv(poses[frame - 1]) @ poses[frame]
                drawn = self._drawn((7,), key, "step", frame)
                astray = astray @ step @ _motion(drawn, self.metres_walk, self.degrees_walk)
            drawn = self._drawn((7,), key, "pose", frame)
            there = astray if walks else poses[frame]
            result[frame] = there @ _motion(drawn, self.metres, self.degrees)
        return result

    def _drawn(self, shape: tuple[int, ...], key: str, what: str, frame: int) -> Tensor:
        """Standard normal numbers, fp64, that belong to a frame of a clip."""
        draw = torch.Generator().manual_seed(self._seed(key, what, frame))
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    def _seed(self, key: str, what: str, frame: int) -> int:
        return seeds.seed_for(self.seed, "geometry", key, what, frame)


def _motion(drawn: Tensor, metres: float, degrees: float) -> Tensor:
    """A small rigid motion (4, 4) of seven normal numbers: place, axis, angle (Rodrigues)."""
    place, axis, angle = drawn[:3], drawn[3:6], torch.deg2rad(degrees * drawn[6])
    x, y, z = (axis / axis.norm()).tolist()
    cross = drawn.new_tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    motion = torch.eye(4, dtype=drawn.dtype)
    motion[:3, :3] += angle.sin() * cross + (1 - angle.cos()) * cross @ cross
    motion[:3, 3] = metres * place
    return motion


# Named levels. "depth", "poses" and both as "stated": 5 % of scale, 2 cm and 1 degree a frame.
IMPERFECT = {
    "slight": Imperfect(scale=0.02, metres=0.01, degrees=0.5),
    "depth": Imperfect(scale=0.05),
    "poses": Imperfect(metres=0.02, degrees=1.0),
    "stated": Imperfect(scale=0.05, metres=0.02, degrees=1.0),
    "drift": Imperfect(walk=0.01, metres_walk=0.01, degrees_walk=0.5),
    "strong": Imperfect(
        pixel=0.05, scale=0.1, missing=0.2, walk=0.02, metres=0.04, degrees=2.0,
        metres_walk=0.02, degrees_walk=1.0,
    ),
}
