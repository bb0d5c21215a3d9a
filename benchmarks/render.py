"""A 64x64 frame of a room: the whole of it against MuJoCo's bare cast of one ray a pixel.

    python benchmarks/render.py [--rooms 4] [--json] [--out FILE]

Whole frames have colour, depth, identity and smoothed outlines, on the way out along `loop180`, all
in one call or one a call. The bare cast asks `mj_multiRay` for every pixel, with no more geoms than
are in view; it colours nothing. The three are interleaved in one process on one thread; printed are
the medians over rooms of all splits, and the quartiles of the ratio.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy starts its own

import mujoco
import numpy as np
import torch
import tyro

from loci.geometry import Camera
from loci.worlds.render.ray_intersect import VISIBLE_GROUP
from loci.worlds.rooms.paths import make_path
from loci.worlds.rooms.room import SPLITS, Room, sample_room
from protocol import Output, protocol, quartiles, save

CAMERA = Camera()


@dataclass
class Options(Output):
    rooms: int = 4  # of each split
    repeats: int = 9


def main(options: Options) -> None:
    results = [
        compare(sample_room(seed, split), options.repeats)
        for split in SPLITS
        for seed in range(options.rooms)
    ]
    median: dict[str, float] = {}
    for key in results[0]:
        median |= quartiles(key, [r[key] for r in results])
    made = protocol(
        options, dict.fromkeys(("cast", "frame", "alone"), CAMERA), seed=0,
        cases=len(results), repeats=options.repeats, camera=CAMERA.to_dict(), splits=SPLITS,
        mujoco=mujoco.__version__, dtypes=(torch.float64, torch.float32), warm_up="a turn of all",
        spread="medians and quartiles over rooms of the medians of their turns",
    )
    save(options, {"protocol": made, "ms_a_frame": median},
         f"bare cast {median['cast']:.2f} ms  frame {median['frame']:.2f} ms  "
         f"ratio {median['ratio']:.2f} ({median['ratio_lo']:.2f} to {median['ratio_hi']:.2f})  "
         f"frame on its own {median['alone']:.2f} ms")


def compare(room: Room, repeats: int) -> dict[str, float]:
    """Median milliseconds a frame, and the median ratio of a whole frame to the bare cast."""
    way = make_path("loop180", room.start, room.seed, room)
    poses = way.poses[: way.out]
    acts = {
        "cast": bare(room, poses),
        "frame": lambda: room.render(poses, CAMERA),
        "alone": lambda: [room.render(pose[None], CAMERA) for pose in poses],
    }
    times: dict[str, list[float]] = {key: [] for key in acts}
    for repeat in range(repeats + 1):
        for key, act in acts.items():
            began = time.perf_counter()
            act()
            if repeat:
                times[key].append(1000 * (time.perf_counter() - began) / len(poses))
    ratios = [a / b for a, b in zip(times["frame"], times["cast"], strict=True)]
    return {key: statistics.median(t) for key, t in times.items()} | {
        "ratio": statistics.median(ratios)
    }


def bare(room: Room, poses: np.ndarray):
    """A function that casts one ray a pixel from every pose, and nothing else."""
    caster = room.scene._caster
    model, data = caster._model, caster._data
    hidden = ~caster.in_view(poses, CAMERA)[0]
    rays = [(CAMERA.rays() @ pose[:3, :3].T).reshape(-1) for pose in poses]
    count = CAMERA.height * CAMERA.width
    geom, distance, normal = np.empty(count, np.int32), np.empty(count), np.empty(3 * count)

    def run() -> None:
        for pose, ray, out in zip(poses, rays, hidden, strict=True):
            model.geom_group[:] = out
            mujoco.mj_multiRay(model, data, pose[:3, 3].copy(), ray, VISIBLE_GROUP, 1, -1,
                               geom, distance, normal, count, mujoco.mjMAXVAL)
        model.geom_group[:] = 1  # as the renderer expects it

    return run


if __name__ == "__main__":
    main(tyro.cli(Options))
