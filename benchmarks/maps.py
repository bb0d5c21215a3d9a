"""What a map brings back without any model, what it weighs, and what it takes.

    python benchmarks/maps.py [--cases 8] [--frames 10000] [--out FILE]

- Renders: held-out rooms along the study's recall paths. The way out is written with its exact
  depth, or with depth and poses that are off; the way back is drawn. PSNR over the pixels that were
  seen before and that the render covers, the share of seen pixels that it covers, and what the map
  weighs then. Means of the cases with 95 % bootstrap intervals.
- Writes: one frame after the other along random walks through one room, again and again; medians
  and quartiles of the milliseconds around some numbers of frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from loci.data.cases import make_cases
from loci.data.episodes import EpisodeCache
from loci.data.truth import Truth, prepare
from loci.geometry import Camera, relative_to
from loci.geometry.depth import intrinsics_of
from loci.geometry.scene_map import SceneMap, View
from loci.io.files import cache_folder
from loci.memory import Map
from loci.study.estimates import Tally, bootstrap, spread
from loci.study.provenance import BOOTSTRAP
from loci.study.rooms.metrics import psnr
from loci.worlds.rooms.courses import RECALL_COURSES
from loci.worlds.rooms.paths import wander
from loci.worlds.rooms.room import sample_room
from protocol import Output, protocol, save

SEED = 0
MAPS = {
    **{f"voxels, {size * 100:.0f} cm": Map(voxel=size) for size in (0.02, 0.05, 0.1, 0.2)},
    **{f"tsdf, {size * 100:.0f} cm": Map(form="tsdf", voxel=size) for size in (0.05, 0.1)},
}
# Standard deviations: of the depth's scale and of the poses' place (m) and heading (degrees), of
# each frame by itself.
GEOMETRY = {"exact": (0.0, 0.0, 0.0), "depth": (0.05, 0.0, 0.0), "poses": (0.0, 0.02, 1.0)}


@dataclass
class Options(Output):
    cases: int = 8
    frames: int = 10_000
    around: int = 50  # writes that are timed around each number of frames
    threads: int = 1


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    camera = Camera()
    cases = make_cases("heldout", RECALL_COURSES, options.cases, SEED)
    cache = EpisodeCache(cache_folder() / "episodes")
    truths = [prepare(case, cache, camera) for case in cases]
    rows = {
        f"{name}; {geometry}": score(truths, memory, off)
        for name, memory in MAPS.items() for geometry, off in GEOMETRY.items()
    }
    writes = {
        name: timed(MAPS[name].build(torch.device("cpu")), camera, options)
        for name in ("voxels, 10 cm",)
    }
    made = protocol(
        options, dict(MAPS), seed=SEED, cases=options.cases, camera=camera.to_dict(),
        geometry={name: dict(zip(("scale", "metres", "degrees"), off, strict=True))
                  for name, off in GEOMETRY.items()},
        bootstrap=BOOTSTRAP, around=options.around, dtypes=(torch.float64,),
        spread="renders: 95 % bootstrap intervals over cases; writes: medians and quartiles",
    )
    save(options, {"protocol": made, "renders": rows, "writes": writes}, "\n".join([
        *(f"{name:28} " + ", ".join(f"{what} {each['mean']:.2f}" for what, each in found.items())
          for name, found in rows.items()),
        *(f"{name} after {frames} frames: {took['median']:.1f} ms"
          for name, found in writes.items() for frames, took in found.items()),
    ]))


def score(truths: list[Truth], memory: Map, off: tuple[float, float, float]) -> dict[str, Any]:
    """PSNR (dB), coverage (%), and kilobytes of maps of these cases."""
    found: dict[str, list[Tally]] = {"psnr": [], "covered": [], "kilobytes": []}
    for number, truth in enumerate(truths):
        built, poses = memory.build(torch.device("cpu")), relative(truth.poses)
        for view in seen(truth, poses, off, number):
            built.write(view)
        shown, covered = drawn(built, truth, poses)
        mask = truth.seen & covered
        value = psnr(shown, truth.rgb[truth.generated], mask)
        found["psnr"] += [] if value is None else [Tally(value)]
        found["covered"].append(Tally(100 * float(covered[truth.seen].mean())))
        found["kilobytes"].append(Tally(built.bytes / 1000))
    means = {name: bootstrap(values) for name, values in found.items()}
    return {name: mean.to_dict() for name, mean in means.items() if mean is not None}


def relative(poses: np.ndarray) -> Tensor:
    absolute = torch.from_numpy(poses)[None]
    return relative_to(absolute[:, 0], absolute)[0]


def seen(
    truth: Truth, poses: Tensor, off: tuple[float, float, float], number: int
) -> Iterator[View]:
    """The frames that are given, with what is off about them."""
    scale, metres, degrees = off
    draw = torch.Generator().manual_seed(number)
    for frame in range(truth.observed):
        wrong = torch.randn(5, generator=draw, dtype=torch.float64)
        pose, turn = poses[frame].clone(), torch.deg2rad(degrees * wrong[4])
        about = torch.eye(3, dtype=torch.float64)
        about[0, 0] = about[2, 2] = turn.cos()
        about[0, 2], about[2, 0] = turn.sin(), -turn.sin()
        if frame:  # the first frame is where all others are measured from
            pose[:3, :3], pose[:3, 3] = pose[:3, :3] @ about, pose[:3, 3] + metres * wrong[:3]
        depth = torch.from_numpy(truth.depth[frame]) * float((scale * wrong[3]).exp())
        yield View(depth, torch.from_numpy(truth.rgb[frame]), intrinsics_of(truth.camera), pose,
                   frame)


def drawn(built: SceneMap, truth: Truth, poses: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (T, H, W, 3) uint8 of the way back, and which of their pixels are covered."""
    camera = truth.camera
    renders = built.render(
        poses[truth.generated], intrinsics_of(camera), camera.height, camera.width, truth.observed
    )
    pictures = torch.stack([r.payload for r in renders]).round().clamp(0, 255).byte()
    return pictures.numpy(), torch.stack([r.covered for r in renders]).numpy()


def timed(built: SceneMap, camera: Camera, options: Options) -> dict[str, Any]:
    """Milliseconds to write a frame, around some numbers of frames."""
    moments = [n for n in (100, 1000, 3000, 10_000) if n <= options.frames]
    took: dict[str, list[float]] = {str(moment): [] for moment in moments}
    for number, view in enumerate(walks(camera, options.frames)):
        began = time.perf_counter()
        built.write(view)
        milliseconds = 1000 * (time.perf_counter() - began)
        for moment in moments:
            if moment - options.around <= number < moment:
                took[str(moment)].append(milliseconds)
    return {moment: spread(values) for moment, values in took.items()}


def walks(camera: Camera, frames: int, length: int = 257) -> Iterator[View]:
    """Random walks through one room, rendered as they come."""
    room, number, walk = sample_room(SEED, "heldout"), 0, 0
    while number < frames:
        path = wander(room.start, walk, room, length - 1)
        views, walk = room.render(path.poses, camera), walk + 1
        for depth, rgb, pose in zip(views.depth, views.rgb, views.poses, strict=True):
            if number < frames:
                yield View(torch.from_numpy(depth), torch.from_numpy(rgb), intrinsics_of(camera),
                           torch.from_numpy(pose), number)
            number += 1


if __name__ == "__main__":
    main(tyro.cli(Options))
