"""How much memory does a dataset take that is larger than memory? Peak of a process that encodes
and keeps scenes of so many frames in all, then of one that opens what is kept and draws from it.

    python benchmarks/dataset_memory.py [--frames 10000,100000,1000000] [--draws 200] [--json]
        [--out FILE]

Pictures of 16x16 pixels are made up when they are asked for, 5,000 a scene, and kept as latents of
1.6 kB a frame by the codec of pixels; Wan's of 352x640 take 28 kB a picture. Of each process the
peak of resident memory is measured (Linux's `VmHWM`) and what it takes without any data is taken
off. Milliseconds of a draw (four episodes of 81 frames): medians and quartiles.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from loci.data.base import EpisodeSpec
from loci.data.scenes import ScenesData
from loci.geometry import Camera
from loci.geometry.depth import intrinsics_of
from loci.io.files import cache_folder, folder_size
from loci.models.codecs import PixelCodecConfig
from loci.training.sampler import Sampler
from protocol import Output, protocol, quartiles, save

SCENE = 5000
BATCH = 4
# Set for a process of its own: "none", "keep" or "draw".
STEP = "DATASET_MEMORY_STEP"
CAMERA = Camera(height=16, width=16)


@dataclass
class Options(Output):
    frames: str = "10000,100000,1000000"
    draws: int = 200


class MadeUpScene:
    """Pictures from a seed, a camera that goes ahead."""

    intrinsics = intrinsics_of(CAMERA).numpy()
    size = (CAMERA.height, CAMERA.width)

    def __init__(self, name: str):
        self.name = name
        self.poses = np.tile(np.eye(4), (SCENE, 1, 1))
        self.poses[:, 2, 3] = np.arange(SCENE) * 0.05

    def pictures(self, moments: Sequence[int]) -> Iterator[np.ndarray]:
        draw = np.random.default_rng([int(self.name), moments[0]])
        return iter(draw.integers(0, 256, (len(moments), *self.size, 3), np.uint8))

    def content(self, moments: Sequence[int] | None = None) -> str:
        return self.name

    def text(self, start: int, stop: int) -> str:
        return f"Scene {self.name}, frame {start}."

    def earlier(self, moments: Sequence[int], count: int) -> list[int]:
        return []


@dataclass(frozen=True, kw_only=True)
class MadeUpData(ScenesData, name="made-up"):
    """So many frames in scenes of 5,000."""

    frames: int

    def names(self) -> tuple[str, ...]:
        return tuple(f"{number:04d}" for number in range(max(1, self.frames // SCENE)))

    def open(self, name: str) -> MadeUpScene:
        return MadeUpScene(name)


def one(step: str, frames: int, draws: int) -> dict[str, Any]:
    """What a process of its own does, and its peak in bytes."""
    data = MadeUpData(folder="made-up", frames=frames, split="all")
    spec = EpisodeSpec(codec=PixelCodecConfig().build(), camera=CAMERA)
    found: dict[str, Any] = {}
    if step != "none":
        began = time.perf_counter()
        episodes = data.load(spec)
        found = {"episodes": len(episodes), "load_seconds": time.perf_counter() - began}
    if step == "draw":
        sampler, times = Sampler(0, BATCH, episodes.frames.tolist()), []
        for number in range(draws):
            began = time.perf_counter()
            episodes.rows(sampler.picks(number))
            times.append(1e3 * (time.perf_counter() - began))
        found |= quartiles("draw_ms", times)
    return {**found, "peak": _peak()}


def _peak() -> int:
    """The most resident memory that this process has had, in bytes. `ru_maxrss` would begin with
    that of the process which began it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def measure(frames: int, draws: int) -> dict[str, Any]:
    """Keep and draw, each in a process of its own, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LOCI_CACHE"] = folder
        found = {step: _process(step, frames, draws) for step in ("none", "keep", "draw")}
        kept = folder_size(cache_folder("latents"))
    bare = found["none"]["peak"]
    drawn = found["draw"]
    return {
        "frames": frames, "episodes": drawn["episodes"], "kept_mb": kept / 1e6,
        "keep_mb": (found["keep"]["peak"] - bare) / 1e6, "draw_mb": (drawn["peak"] - bare) / 1e6,
        "keep_seconds": found["keep"]["load_seconds"], "open_seconds": drawn["load_seconds"],
        **{name: drawn[name] for name in ("draw_ms", "draw_ms_lo", "draw_ms_hi")},
    }


def _process(step: str, frames: int, draws: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--frames", str(frames), "--draws", str(draws)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {STEP: step}
    )
    return json.loads(done.stdout)


def main(options: Options) -> None:
    sizes = [int(part) for part in options.frames.split(",")]
    if STEP in os.environ:
        print(json.dumps(one(os.environ[STEP], sizes[0], options.draws)))
        return
    rows = [measure(frames, options.draws) for frames in sizes]
    about = protocol(
        options, {"scenes": MadeUpData(folder="made-up", frames=sizes[-1], split="all")}, seed=0,
        spread="quartiles over draws", repeats=options.draws,
    )
    lines = [
        f"{row['frames']:>9,} frames, {row['kept_mb']:7,.0f} MB kept: {row['keep_mb']:4.0f} MB to "
        f"keep them ({row['keep_seconds']:.0f} s), {row['draw_mb']:4.0f} MB to draw from them "
        f"({row['open_seconds']:.1f} s to open, {row['draw_ms']:.1f} ms a draw)"
        for row in rows
    ]
    save(options, {"protocol": about, "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Options))
