"""The picture of `loci map`: a plan, a ring of views from outside and from within, and how much of
each frame was known before."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from loci.geometry import Camera
from loci.geometry.depth import intrinsics_of
from loci.geometry.splat import splat
from loci.io.captions import tiled
from loci.io.files import atomic_write

if TYPE_CHECKING:
    from loci.commands.map import Known

PLAN, SMALL = 480, Camera(height=135, width=180, fov=60.0)
VIEWS = 6
# Share of the height that is cut off, so that one looks into rooms from above.
CEILING = 0.2
LOWER = math.radians(42)  # how far a camera outside looks down
# Points are drawn so much wider than they are: pictures here are finer than those that were seen.
WIDER = 1.6
UNKNOWN = (226, 229, 234)
WAY = "#e4572e"


def write_picture(known: Known, path: Path) -> None:
    """Draw a map with colours into a PNG, whole or not at all."""
    figure = Figure(figsize=(11, 7.4 if known.covered else 5.8), layout="constrained", dpi=150)
    heights = [1, 1, 0.55] if known.covered else [1, 1]
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=[1, 1.12])
    plan = figure.add_subplot(grid[:2, 0])
    image, extent = _plan(known)
    plan.imshow(image, extent=extent, interpolation="nearest")
    x, _, z = known.poses[:, :3, 3].numpy().T
    ahead = known.poses[0, :3, 2].numpy()
    plan.plot(x, z, "-", color=WAY, lw=1.6)
    plan.quiver(x[:1], z[:1], ahead[:1], ahead[2:], color=WAY, scale=12, width=0.012)
    plan.set(title="plan: from above, without the ceiling; unknown is pale", xlabel="m", ylabel="m")
    for row, title, views in (
        (0, "from outside, around it", _outside(known)),
        (1, "from the first frame's place, around it", _within(known)),
    ):
        axis = figure.add_subplot(grid[row, 1])
        axis.imshow(tiled(views, 3, 3), interpolation="nearest")
        axis.set(title=title, xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    if known.covered:
        axis = figure.add_subplot(grid[2, :])
        axis.fill_between(range(len(known.covered)), 100 * np.array(known.covered), color=WAY,
                          alpha=0.25, lw=0)
        axis.plot(100 * np.array(known.covered), "-", color=WAY, lw=1.6)
        axis.set(title="pixels of each frame that the map knew before it was written, %",
                 xlabel="frame", ylim=(0, 102), xlim=(0, max(1, len(known.covered) - 1)))
        axis.spines[["top", "right"]].set_visible(False)
    atomic_write(path, lambda temporary: figure.savefig(temporary, format="png"))


def _plan(known: Known) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The map from far above, nearly without perspective, and the metres at its borders (left,
    right, bottom, top)."""
    points, kept = known.points, _open(known.points)
    everything = torch.cat([points, known.poses[:, :3, 3]])
    low, high = everything.amin(0), everything.amax(0)
    middle, half = (low + high) / 2, 0.53 * float((high - low)[[0, 2]].max())
    away = 100 * half
    pose = torch.eye(4, dtype=torch.float64)
    # To the right x, upwards z; down along y.
    pose[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    pose[:3, 3] = torch.tensor([middle[0], low[1] - away, middle[2]])
    camera = Camera(height=PLAN, width=PLAN, fov=math.degrees(2 * math.atan(half / away)))
    sides = (middle[0] - half, middle[0] + half, middle[2] - half, middle[2] + half)
    return _drawn(known, kept, pose, camera), tuple(map(float, sides))


def _outside(known: Known) -> list[np.ndarray]:
    """Views from a ring around the map, down into it; walls that turn their back are left out."""
    points = known.points
    low, high = torch.from_numpy(np.quantile(points.numpy(), (0.01, 0.99), axis=0))
    middle, reach = (low + high) / 2, 0.36 * float((high - low).norm())
    away = reach / math.tan(math.radians(SMALL.fov) * SMALL.height / SMALL.width / 2)
    views, facing = [], known.normals
    for number in range(VIEWS):
        pose = _turned(2 * math.pi * number / VIEWS, LOWER)
        pose[:3, 3] = middle - away * pose[:3, 2]
        kept = _open(points)
        if facing is not None:
            kept &= (facing * (pose[:3, 3] - points)).sum(1) >= 0
        views.append(_drawn(known, kept, pose, SMALL))
    return views


def _within(known: Known) -> list[np.ndarray]:
    """Views from where the first frame stood."""
    every = torch.ones(len(known.points), dtype=torch.bool)
    return [
        _drawn(known, every, known.poses[0] @ _turned(2 * math.pi * number / VIEWS, 0.0), SMALL)
        for number in range(VIEWS)
    ]


def _open(points: Tensor) -> Tensor:
    """Which points (M, 3) are not of the ceiling."""
    top, bottom = np.quantile(points[:, 1].numpy(), (0.01, 0.99))
    return points[:, 1] > top + CEILING * (bottom - top)


def _turned(yaw: float, down: float) -> Tensor:
    """A camera at the origin, turned to the right and down."""
    c, s, d, e = math.cos(yaw), math.sin(yaw), math.cos(down), math.sin(down)
    about = torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]])
    tilt = torch.tensor([[1, 0, 0, 0], [0, d, e, 0], [0, -e, d, 0], [0, 0, 0, 1]])
    return about.double() @ tilt.double()


def _drawn(known: Known, kept: Tensor, pose: Tensor, camera: Camera) -> np.ndarray:
    """The points in `kept` (M,) as a picture (H, W, 3) uint8."""
    found = splat(
        known.points[kept], WIDER * known.map.size, intrinsics_of(camera), pose, camera.height,
        camera.width,
    )
    picture = torch.tensor(UNKNOWN, dtype=torch.uint8).repeat(camera.height, camera.width, 1)
    picture[found.covered] = known.colours[kept][found.number[found.covered]]
    return picture.numpy()
