"""Walks through the train rooms, as training data: rendered, encoded and surveyed once, then kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from loci.data.base import DEPTH, POSES, DataConfig, Episodes, EpisodeSpec
from loci.data.kept import keep, name_of, read_kept
from loci.data.survey import Surveyor
from loci.errors import LociError
from loci.geometry import Camera, relative_to
from loci.geometry.depth import intrinsics_of
from loci.io.checkpoint import digest
from loci.io.files import cache_folder, check_writable
from loci.io.parallel import parallel_map, worker_count
from loci.io.progress import Progress, announce, tracked
from loci.memory.frames import Frames

if TYPE_CHECKING:
    from loci.worlds.render.renderer import Views

# Raise it whenever a room, a path or a pixel changes: files of another version are refused.
FORMAT = "loci-episodes-1"
SHARD = 64  # rooms a file
LATENTS = "loci-latents-1"
SURVEYS = "loci-surveys-1"
AT_ONCE = 8  # episodes that are encoded together


@dataclass(frozen=True, kw_only=True)
class RoomsData(DataConfig, name="rooms"):
    """One walk of `length` images through each of the train rooms 0 to episodes - 1."""

    episodes: int = 3000
    length: int = 65

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise LociError(f"{self.episodes} episodes teach nothing; use 1 or more")
        if self.length < 5 or self.length % 4 != 1:
            raise LociError(f"episodes of {self.length} frames; give 1 + 4 n, at least 5")

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({POSES, DEPTH})

    def small(self) -> Self:
        return replace(self, episodes=min(self.episodes, 192), length=min(self.length, 33))

    def load(self, spec: EpisodeSpec) -> Episodes:
        """Latents and poses, and what the memory observes, from the cache where they are there.

        Raises LociError for a file there that is truncated or altered.
        """
        if spec.every != 1 or spec.actions:
            raise LociError(
                "the rooms have no actions, and their frames are one step apart; use stride "
                f"{spec.codec.images_per_frame}, or demonstrations of a robot"
            )
        key = {
            "rooms": FORMAT, "codec": digest(spec.codec.state_dict()),
            "codec_config": spec.codec.config.hash(), "camera": spec.camera.to_dict(),
            "episodes": self.episodes, "length": self.length,
        }
        file = cache_folder("latents") / f"rooms-{name_of(key)}.safetensors"
        if not file.exists():
            keep(file, LATENTS, key, self._encode(spec))
        found = read_kept(file, LATENTS, key, "latents")
        latents = torch.from_numpy(found["latents"])
        return Episodes(
            latents=latents, poses=torch.from_numpy(found["poses"]),
            frames=torch.full((len(latents),), latents.shape[1]),
            instructions=("",) * len(latents),
            surveyed=self._survey(key, spec.surveyor) if spec.surveyor is not None else {},
        )

    def _survey(self, key: Mapping[str, Any], surveyor: Surveyor) -> dict[str, Tensor]:
        """What each store looks up, in half precision, shard by shard."""
        folder, found = cache_folder("surveys"), {}
        check_writable(folder)
        for store, depends in surveyor.depends.items():
            keys = {
                range(first, min(first + SHARD, self.episodes)):
                    {**key, "surveyor": depends, "first": first}
                for first in range(0, self.episodes, SHARD)
            }
            files = {seeds: folder / f"rooms-{name_of(own)}.safetensors"
                     for seeds, own in keys.items()}
            missing = [seeds for seeds, file in files.items() if not file.exists()]
            make = partial(survey_walks, length=self.length, surveyor=surveyor, store=store)
            with Progress(f"surveying episodes ({store})", sum(map(len, missing))) as progress:
                made = parallel_map(make, missing, worker_count(len(missing)))
                for seeds, arrays in zip(missing, made, strict=True):
                    keep(files[seeds], SURVEYS, keys[seeds], arrays)
                    progress.advance(len(seeds))
            parts = [read_kept(files[seeds], SURVEYS, own, "survey") for seeds, own in keys.items()]
            found |= {
                name: torch.from_numpy(np.concatenate([part[name] for part in parts]))
                for name in parts[0]
            }
        return found

    def _encode(self, spec: EpisodeSpec) -> dict[str, np.ndarray]:
        images, poses = render_training_set(
            range(self.episodes), self.length, spec.camera, cache_folder("train")
        )
        starts = range(0, len(images), AT_ONCE)
        pieces = [
            spec.codec.encode(torch.from_numpy(images[i : i + AT_ONCE])).half()
            for i in tracked(starts, "encoding episodes", len(starts))
        ]
        every = spec.codec.images_per_frame
        return {"latents": torch.cat(pieces).numpy(), "poses": poses[:, ::every].copy()}


def render_training_set(
    seeds: Iterable[int],
    length: int = 65,
    camera: Camera | None = None,
    folder: str | Path | None = None,
    workers: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Walks of `length` = 1 + 4 n images through the train rooms `seeds`.

    Returns rgb uint8 (E, T, H, W, 3) and poses float64 (E, T, 4, 4), in the order of `seeds`. With
    a `folder`, shards of 64 walks are kept there: a killed rendering goes on where it was, and the
    same seeds are read back the next time. workers: processes (default: one a core, for more than
    one shard). Raises LociError for another length or a bad shard.
    """
    camera = camera or Camera()
    seeds = list(seeds)
    if length < 5 or length % 4 != 1:
        raise LociError(f"episodes of {length} frames; give 1 + 4 n, at least 5")
    if not seeds:
        raise LociError("no seeds to render; give one or more")
    rgb = np.empty((len(seeds), length, camera.height, camera.width, 3), np.uint8)
    poses = np.empty((len(seeds), length, 4, 4))
    shards = [seeds[i : i + SHARD] for i in range(0, len(seeds), SHARD)]
    one = partial(_shard, length=length, camera=camera, folder=folder)
    missing = [
        shard for shard in shards
        if folder is None or not _file(shard, length, camera, folder).exists()
    ]
    workers = worker_count(len(missing)) if workers is None else workers
    if folder is not None:
        check_writable(folder)
    if folder is not None and missing:
        began = time.monotonic()
        _walk(missing[0][0], length, camera)
        count = sum(map(len, missing))
        announce(
            f"rendering {count} training episodes", count,
            (time.monotonic() - began) / workers, rgb.nbytes // len(seeds), folder,
        )
    with Progress("rendering episodes", len(seeds)) as progress:
        for number, (images, cameras) in enumerate(parallel_map(one, shards, workers)):
            part = slice(number * SHARD, number * SHARD + len(images))
            rgb[part], poses[part] = images, cameras
            progress.advance(len(images))
    return rgb, poses


def survey_walks(
    seeds: Sequence[int], length: int, surveyor: Surveyor, store: str
) -> dict[str, np.ndarray]:
    """What a store looks up along the walks through the train rooms `seeds`, STORE.PART (E, G,
    ...): numbers in half precision."""
    matrix, found = intrinsics_of(surveyor.camera), []
    torch.set_num_threads(1)  # a process a core
    for first in range(0, len(seeds), AT_ONCE):
        views, poses = zip(
            *(_walk(seed, length, surveyor.camera) for seed in seeds[first : first + AT_ONCE]),
            strict=True,
        )
        images, depth = (
            torch.from_numpy(np.stack([getattr(view, part) for view in views]))
            for part in ("rgb", "depth")
        )
        where = torch.from_numpy(np.stack(poses))
        found.append(surveyor.survey(Frames(
            surveyor.codec.encode(images), relative_to(where[:, 0], where),
            torch.zeros(images.shape[:2]), depth, matrix.expand(*images.shape[:2], 3, 3), images,
        ), {store}))
    return {
        name: torch.cat([
            part[name].half() if part[name].is_floating_point() else part[name] for part in found
        ]).numpy()
        for name in found[0]
    }


def _key(seeds: list[int], length: int, camera: Camera) -> dict[str, object]:
    return {"camera": camera.to_dict(), "length": length, "seeds": seeds, "split": "train"}


def _file(seeds: list[int], length: int, camera: Camera, folder: str | Path) -> Path:
    return Path(folder) / f"train-{name_of(_key(seeds, length, camera))}.safetensors"


def _walk(seed: int, length: int, camera: Camera) -> tuple[Views, np.ndarray]:
    from loci.worlds.rooms.paths import wander
    from loci.worlds.rooms.room import sample_room

    room = sample_room(seed, "train")
    way = wander(room.start, seed, room, length - 1)
    return room.render(way.poses, camera), way.poses


def _shard(
    seeds: list[int], length: int, camera: Camera, folder: str | Path | None
) -> tuple[np.ndarray, np.ndarray]:
    key = _key(seeds, length, camera)
    file = None if folder is None else _file(seeds, length, camera, folder)
    if file is not None and file.exists():
        data = read_kept(file, FORMAT, key)
        return data["rgb"], data["poses"]
    walks = [_walk(seed, length, camera) for seed in seeds]
    rgb = np.stack([views.rgb for views, _ in walks])
    poses = np.stack([where for _, where in walks])
    if file is not None:
        keep(file, FORMAT, key, {"rgb": rgb, "poses": poses})
    return rgb, poses
