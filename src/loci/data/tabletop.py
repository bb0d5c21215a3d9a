"""An expert at a tabletop task, as training data: watched once, then kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from loci.config import added_field
from loci.data.base import ACTIONS, DataConfig, Episodes, EpisodeSpec, demonstration
from loci.errors import LociError, did_you_mean
from loci.geometry import Camera
from loci.io.files import cache_folder, check_writable
from loci.io.kept import keep, name_of, read_kept
from loci.io.mosaic import mosaic
from loci.io.parallel import parallel_map, worker_count
from loci.io.progress import announce, tracked
from loci.models.embodiment import Embodiment
from loci.worlds.tabletop.arms import CAMERAS
from loci.worlds.tabletop.demonstration import TRAINING, Perturbation, watched
from loci.worlds.tabletop.tasks import TASKS, make_task

# Raise it whenever what an expert does or a camera sees changes.
FORMAT = "loci-demonstrations-1"
SHARD = 8  # seeds a file
MANY = 64  # episodes for which processes are worth starting


@dataclass(frozen=True, kw_only=True)
class TabletopData(DataConfig, name="tabletop"):
    """Demonstrations of a tabletop task.

    task: its name. episodes: so many that succeed. steady: the expert is not pushed. drift: its
    arms leave their way by so much, radians (see `Perturbation`). cameras: the first one lies at
    the bottom of the mosaic.
    """

    task: str
    episodes: int
    steady: bool = False
    drift: float = added_field(0.0)
    cameras: tuple[str, ...] = CAMERAS

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise LociError(f"unknown task '{self.task}'{did_you_mean(self.task, TASKS)}")
        if self.episodes < 1:
            raise LociError(f"{self.episodes} episodes of {self.task}; use 1 or more")
        Perturbation.of(self.steady, self.drift)  # refuses what is no drift
        for name in self.cameras:
            if name not in CAMERAS:
                raise LociError(f"the tabletop has no camera '{name}'{did_you_mean(name, CAMERAS)}")

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({ACTIONS})

    @property
    def camera_names(self) -> tuple[str, ...]:
        return self.cameras

    def embodiment(self) -> Embodiment:
        from loci.worlds.tabletop.embodiment import embodiment

        return embodiment(self.cameras, (make_task(self.task).instruction,))

    def small(self) -> Self:
        return replace(self, episodes=min(self.episodes, 96))

    def load(self, spec: EpisodeSpec) -> Episodes:
        """All demonstrations, from the cache where they are there, encoded.

        Raises LociError for a file there that is truncated or altered, and where the expert fails
        too often.
        """
        instruction = make_task(self.task).instruction
        found = tracked(self._watch(spec), f"loading {self.task}", self.episodes)
        return Episodes.join([
            demonstration(
                torch.from_numpy(one["video"]), spec, len(one["actions"]), instruction,
                torch.from_numpy(one["proprio"]), torch.from_numpy(one["actions"]),
            )
            for one in found
        ])

    def _watch(self, spec: EpisodeSpec) -> Iterator[dict[str, np.ndarray]]:
        """The demonstrations, in the order of their seeds."""
        folder = cache_folder("demonstrations")
        check_writable(folder)
        one = partial(_shard, data=self, every=spec.every, camera=spec.camera, folder=folder)
        last = TRAINING + 3 * self.episodes + 10
        left, seed, announced = self.episodes, TRAINING, False
        while left and seed < last:
            # As many seeds as are missing; some more where the expert failed at one.
            shards = [range(s, s + SHARD) for s in range(seed, seed + left, SHARD)]
            missing = [
                shard for shard in shards
                if not _file(shard, self, spec.every, spec.camera, folder).exists()
            ]
            workers = worker_count(len(missing)) if left >= MANY else 1
            if missing and not announced:
                self._announce(SHARD * len(missing), spec, workers, folder)
                announced = True
            for episodes in parallel_map(one, shards, workers):
                yield from episodes[:left]
                left -= len(episodes[:left])
            seed = shards[-1].stop
        if not left:
            return
        raise LociError(
            f"the expert failed too often at {self.task}: {left} of {self.episodes} are missing"
        )

    def _announce(self, count: int, spec: EpisodeSpec, workers: int, folder: Path) -> None:
        began = time.monotonic()
        found = _watched(TRAINING, self, spec.every, spec.camera)
        size = 0 if found is None else sum(part.nbytes for part in found.values())
        announce(
            f"watching the expert at {self.task} {count} times", count,
            (time.monotonic() - began) / workers, size, folder,
        )


def _key(seeds: range, data: TabletopData, every: int, camera: Camera) -> dict[str, Any]:
    task = make_task(data.task)
    return {
        "task": task.to_dict(), "revision": task.revision,
        "push": Perturbation.of(data.steady, data.drift).to_dict(), "cameras": list(data.cameras),
        "every": every, "camera": camera.to_dict(), "seeds": [seeds.start, seeds.stop],
    }


def _file(seeds: range, data: TabletopData, every: int, camera: Camera, folder: Path) -> Path:
    return folder / f"{data.task}-{name_of(_key(seeds, data, every, camera))}.safetensors"


def _watched(
    seed: int, data: TabletopData, every: int, camera: Camera
) -> dict[str, np.ndarray] | None:
    """One demonstration: video (N, H, W, 3), proprio (N, P), actions (S, A); None if it failed."""
    found = watched(seed, data.task, every, data.cameras, Perturbation.of(data.steady, data.drift))
    if found is None:
        return None
    views, joints, actions = found
    return {
        "video": mosaic(views, camera), "proprio": joints.astype(np.float32),
        "actions": actions.astype(np.float32),
    }


def _shard(
    seeds: range, data: TabletopData, every: int, camera: Camera, folder: Path
) -> list[dict[str, np.ndarray]]:
    """The demonstrations of some seeds that succeed."""
    key, file = _key(seeds, data, every, camera), _file(seeds, data, every, camera, folder)
    if file.exists():
        kept = read_kept(file, FORMAT, key, "demonstrations")
        names = {name.partition(".")[0] for name in kept}
        return [
            {part: kept[f"{number}.{part}"] for part in ("video", "proprio", "actions")}
            for number in sorted(map(int, names))
        ]
    found = [_watched(seed, data, every, camera) for seed in seeds]
    episodes = [one for one in found if one is not None]
    keep(file, FORMAT, key, {
        f"{number}.{part}": array for number, one in enumerate(episodes)
        for part, array in one.items()
    })
    return episodes
