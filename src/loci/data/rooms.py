"""Walks through the train rooms, as training data: rendered, encoded and surveyed once, then kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from loci.config import added_field
from loci.data.base import DEPTH, POSES, DataConfig, Episodes, EpisodeSpec
from loci.data.kept import keep, name_of, read_kept
from loci.data.survey import Surveyor
from loci.errors import LociError, did_you_mean
from loci.geometry import Camera, relative_to
from loci.geometry.depth import intrinsics_of
from loci.geometry.imperfect import Imperfect
from loci.io.checkpoint import digest
from loci.io.files import cache_folder, check_writable
from loci.io.parallel import parallel_map, worker_count
from loci.io.progress import Progress, announce, tracked
from loci.memory.frames import Frames

if TYPE_CHECKING:
    from loci.worlds.render.renderer import Views
    from loci.worlds.rooms.room import Interior

# Raise it whenever a room, a path or a pixel changes: files of another version are refused.
FORMAT = "loci-episodes-1"
SHARD = 64  # rooms a file
LATENTS = "loci-latents-1"
# Raise it whenever a store finds something else in the same frames.
SURVEYS = "loci-surveys-1"
AT_ONCE = 8  # episodes that are encoded together


@dataclass(frozen=True, kw_only=True)
class RoomsData(DataConfig, name="rooms"):
    """One walk of `length` images through each of the train rooms 0 to episodes - 1.

    world: "rooms", or "flats" of two to four rooms. geometry: how far off depth and poses are that
    the memory is told of clean frames (None: they are exact).
    """

    episodes: int = 3000
    length: int = 65
    world: str = added_field("rooms")
    geometry: Imperfect | None = added_field(None)  # noqa: RUF009 (a field)

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise LociError(f"{self.episodes} episodes teach nothing; use 1 or more")
        if self.length < 5 or self.length % 4 != 1:
            raise LociError(f"episodes of {self.length} frames; give 1 + 4 n, at least 5")
        if self.world not in WALKS:
            raise LociError(f"unknown world '{self.world}'{did_you_mean(self.world, WALKS)}")

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
            "episodes": self.episodes, "length": self.length, **_of(self.world),
        }
        file = cache_folder("latents") / f"rooms-{name_of(key)}.safetensors"
        if not file.exists():
            keep(file, LATENTS, key, self._encode(spec))
        found = read_kept(file, LATENTS, key, "latents")
        latents, poses = (torch.from_numpy(found[name]) for name in ("latents", "poses"))
        told = None
        if self.geometry is not None:
            blank = torch.ones(poses.shape[1], 1, 1)
            told = torch.stack([
                self.geometry.apply(blank, where, _name(seed))[1]
                for seed, where in enumerate(poses)
            ])
        return Episodes(
            latents=latents, poses=poses, told=told,
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
                    {**key, "surveyor": depends, "first": first, **self._geometry()}
                for first in range(0, self.episodes, SHARD)
            }
            files = {seeds: folder / f"rooms-{name_of(own)}.safetensors"
                     for seeds, own in keys.items()}
            missing = [seeds for seeds, file in files.items() if not file.exists()]
            make = partial(survey_walks, data=self, surveyor=surveyor, store=store)
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

    def _geometry(self) -> dict[str, Any]:
        return {} if self.geometry is None else {"geometry": self.geometry.to_dict()}

    def _encode(self, spec: EpisodeSpec) -> dict[str, np.ndarray]:
        images, poses = render_training_set(
            range(self.episodes), self.length, spec.camera, cache_folder("train"),
            world=self.world,
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
    world: str = "rooms",
) -> tuple[np.ndarray, np.ndarray]:
    """Walks of `length` = 1 + 4 n images through the train rooms, or flats, `seeds`.

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
    one = partial(_shard, length=length, camera=camera, folder=folder, world=world)
    missing = [
        shard for shard in shards
        if folder is None or not _file(shard, length, camera, folder, world).exists()
    ]
    workers = worker_count(len(missing)) if workers is None else workers
    if folder is not None:
        check_writable(folder)
    if folder is not None and missing:
        began = time.monotonic()
        _walk(world, missing[0][0], length, camera)
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
    seeds: Sequence[int], data: RoomsData, surveyor: Surveyor, store: str
) -> dict[str, np.ndarray]:
    """What a store looks up along the walks through the train rooms `seeds`, STORE.PART (E, G,
    ...): numbers in half precision."""
    found = []
    torch.set_num_threads(1)  # a process a core
    for first in range(0, len(seeds), AT_ONCE):
        frames, poses = zip(
            *(_seen(seed, data, surveyor) for seed in seeds[first : first + AT_ONCE]), strict=True
        )
        together = Frames(**{
            f.name: torch.cat([getattr(one, f.name) for one in frames]) for f in fields(Frames)
        })
        found.append(surveyor.survey(together, {store}, torch.cat(poses)))
    return {
        name: torch.cat([
            part[name].half() if part[name].is_floating_point() else part[name] for part in found
        ]).numpy()
        for name in found[0]
    }


def _seen(seed: int, data: RoomsData, surveyor: Surveyor) -> tuple[Frames, Tensor]:
    """The frames (1, T, ...) of a walk, as a memory is told them, and where they really stood,
    relative to the first."""
    views, way = _walk(data.world, seed, data.length, surveyor.camera)
    poses, depth = torch.from_numpy(way), torch.from_numpy(views.depth)
    images, told = torch.from_numpy(views.rgb)[None], poses
    if data.geometry is not None:
        depth, told = data.geometry.apply(depth, poses, _name(seed))
    matrix = intrinsics_of(surveyor.camera).expand(*images.shape[:2], 3, 3)
    with torch.inference_mode():
        latents = surveyor.codec.encode(images)
    told, poses = (relative_to(poses[:1], where[None]) for where in (told, poses))
    return Frames(latents, told, torch.zeros(images.shape[:2]), depth[None], matrix, images), poses


def _name(seed: int) -> str:
    """The name of a walk, for the errors of its geometry."""
    return f"train/{seed}"


def _of(world: str) -> dict[str, str]:
    """What a key says of the world: nothing of rooms, which were there first."""
    return {} if world == "rooms" else {"world": world}


def _key(seeds: list[int], length: int, camera: Camera, world: str) -> dict[str, object]:
    return {
        "camera": camera.to_dict(), "length": length, "seeds": seeds, "split": "train", **_of(world)
    }


def _file(
    seeds: list[int], length: int, camera: Camera, folder: str | Path, world: str
) -> Path:
    return Path(folder) / f"train-{name_of(_key(seeds, length, camera, world))}.safetensors"


def _walk(world: str, seed: int, length: int, camera: Camera) -> tuple[Views, np.ndarray]:
    interior, poses = WALKS[world](seed, length - 1)
    return interior.render(poses, camera), poses


def _through_a_room(seed: int, steps: int) -> tuple[Interior, np.ndarray]:
    from loci.worlds.rooms.paths import wander
    from loci.worlds.rooms.room import sample_room

    room = sample_room(seed, "train")
    return room, wander(room.start, seed, room, steps).poses


def _through_a_flat(seed: int, steps: int) -> tuple[Interior, np.ndarray]:
    from loci.worlds.rooms.flat import sample_flat
    from loci.worlds.rooms.flat_paths import wander_flat

    flat = sample_flat(seed, "train")
    return flat, wander_flat(flat, seed, steps).poses


# From a seed and a number of steps.
WALKS: dict[str, Callable[[int, int], tuple[Interior, np.ndarray]]] = {
    "rooms": _through_a_room, "flats": _through_a_flat,
}


def _shard(
    seeds: list[int], length: int, camera: Camera, folder: str | Path | None, world: str
) -> tuple[np.ndarray, np.ndarray]:
    key = _key(seeds, length, camera, world)
    file = None if folder is None else _file(seeds, length, camera, folder, world)
    if file is not None and file.exists():
        data = read_kept(file, FORMAT, key)
        return data["rgb"], data["poses"]
    walks = [_walk(world, seed, length, camera) for seed in seeds]
    rgb = np.stack([views.rgb for views, _ in walks])
    poses = np.stack([where for _, where in walks])
    if file is not None:
        keep(file, FORMAT, key, {"rgb": rgb, "poses": poses})
    return rgb, poses
