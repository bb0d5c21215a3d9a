"""Episodes of the rooms: rendered, kept on disk, checked when they are read. Source: ours."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from loci.errors import LociError, did_you_mean
from loci.geometry import Camera
from loci.io.files import atomic_write, check_writable
from loci.io.parallel import parallel_map
from loci.io.progress import Progress
from loci.worlds.rooms.paths import PATHS, make_path, wander
from loci.worlds.rooms.room import sample_room

# Raise it whenever a room, a path or a pixel changes: caches of another version are refused.
FORMAT = "loci-episodes-1"
SHARD = 64
SAMPLE = 17  # frames by which the time for all of them is estimated
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Episode:
    """One camera path through one room, rendered.

    rgb uint8 (T, H, W, 3); depth float32 (T, H, W) metres along z; identity int16 (T, H, W), an
    index into the room's objects or -1; poses float64 (T, 4, 4) camera to world; frames 0 .. out-1
    are the way out, the others the way back; pairs int64 (P, 2) of frames with equal poses. `seed`
    and `split` name the room, `path` the way through it.
    """

    rgb: np.ndarray
    depth: np.ndarray
    identity: np.ndarray
    poses: np.ndarray
    out: int
    pairs: np.ndarray
    seed: int
    split: str
    path: str


def render_episode(split: str, seed: int, path: str, camera: Camera | None = None) -> Episode:
    """Room `seed` of `split` seen along the path named `path`.

    Raises LociError for an unknown split or path.
    """
    room = sample_room(seed, split)
    way = make_path(path, room.start, seed, room)
    views = room.render(way.poses, camera or Camera())
    return Episode(
        rgb=views.rgb,
        depth=views.depth,
        identity=views.identity,
        poses=views.poses,
        out=way.out,
        pairs=way.pairs,
        seed=seed,
        split=split,
        path=path,
    )


class EpisodeCache:
    """Rendered episodes in a folder, one safetensors file each."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def file(self, split: str, seed: int, path: str, camera: Camera | None = None) -> Path:
        """Where that episode is kept."""
        return self.folder / f"{split}-{seed}-{path}-{(camera or Camera()).hash()}.safetensors"

    def get(self, split: str, seed: int, path: str, camera: Camera | None = None) -> Episode:
        """The episode, from disk where it is there, else rendered and stored.

        Raises LociError for a file that is truncated, altered, of another version or of another
        episode, and for an unknown split or path.
        """
        if path not in PATHS:
            raise LociError(f"unknown path '{path}'{did_you_mean(path, PATHS)}")
        camera = camera or Camera()
        file = self.file(split, seed, path, camera)
        key = {"camera": camera.to_dict(), "path": path, "seed": seed, "split": split}
        if file.exists():
            data = _read(file, key)
            return Episode(
                rgb=data["rgb"],
                depth=data["depth"],
                identity=data["identity"],
                poses=data["poses"],
                out=int(data["out"]),
                pairs=data["pairs"],
                seed=seed,
                split=split,
                path=path,
            )
        episode = render_episode(split, seed, path, camera)
        arrays = {
            "rgb": episode.rgb,
            "depth": episode.depth,
            "identity": episode.identity,
            "poses": episode.poses,
            "out": np.array(episode.out),
            "pairs": episode.pairs,
        }
        _write(file, key, arrays)
        return episode


def render_training_set(
    seeds: Iterable[int],
    length: int = 65,
    camera: Camera | None = None,
    folder: str | Path | None = None,
    workers: int = 2,
) -> tuple[np.ndarray, np.ndarray]:
    """Wandering episodes of `length` = 1 + 4 n frames in the training rooms `seeds`.

    Returns rgb uint8 (E, T, H, W, 3) and poses float64 (E, T, 4, 4), in the order of `seeds`. With
    a `folder`, shards of 64 episodes are kept there: a rendering that was killed continues, and the
    same seeds are read back the next time. Raises LociError for another length, a damaged shard,
    and a folder that cannot be written.
    """
    camera = camera or Camera()
    seeds = list(seeds)
    folder = None if folder is None else Path(folder)
    if length < 5 or length % 4 != 1:
        raise LociError(f"episodes of {length} frames; give 1 + 4 n, at least 5")
    if not seeds:
        raise LociError("no seeds to render; give one or more")
    rgb = np.empty((len(seeds), length, camera.height, camera.width, 3), np.uint8)
    poses = np.empty((len(seeds), length, 4, 4))
    shards = [seeds[i : i + SHARD] for i in range(0, len(seeds), SHARD)]
    one = partial(_shard, length=length, camera=camera, folder=folder)
    workers = workers if len(shards) > 1 else 1
    if folder is not None:
        check_writable(folder)
        missing = [
            s for s in shards if not _shard_file(folder, _shard_key(s, length, camera)).exists()
        ]
        if missing and log.isEnabledFor(logging.INFO):
            frames = length * sum(map(len, missing))
            log.info(
                "rendering %d training episodes first: about %s; %s are kept in %s (LOCI_CACHE "
                "names another place)", frames // length,
                _spoken(frames * _frame_seconds(missing[0][0], camera) / workers),
                _gigabytes(rgb.nbytes), folder,
            )
    with Progress("rendering episodes", len(seeds)) as progress:
        for number, (images, cameras) in enumerate(parallel_map(one, shards, workers)):
            part = slice(number * SHARD, number * SHARD + len(images))
            rgb[part], poses[part] = images, cameras
            progress.advance(len(images))
    return rgb, poses


def _shard(
    seeds: list[int], length: int, camera: Camera, folder: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    key = _shard_key(seeds, length, camera)
    file = None if folder is None else _shard_file(folder, key)
    if file is not None and file.exists():
        data = _read(file, key)
        return data["rgb"], data["poses"]
    rgb = np.empty((len(seeds), length, camera.height, camera.width, 3), np.uint8)
    poses = np.empty((len(seeds), length, 4, 4))
    for index, seed in enumerate(seeds):
        room = sample_room(seed, "train")
        way = wander(room.start, seed, room, length - 1)
        rgb[index], poses[index] = room.render(way.poses, camera).rgb, way.poses
    if file is not None:
        _write(file, key, {"rgb": rgb, "poses": poses})
    return rgb, poses


def _shard_key(seeds: list[int], length: int, camera: Camera) -> dict[str, object]:
    return {"camera": camera.to_dict(), "length": length, "seeds": seeds, "split": "train"}


def _shard_file(folder: Path, key: dict[str, object]) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"train-{name}.safetensors"


def _frame_seconds(seed: int, camera: Camera) -> float:
    """Seconds to render a frame of a training room on this machine, from a few frames."""
    began = time.perf_counter()
    room = sample_room(seed, "train")
    poses = wander(room.start, seed, room, SAMPLE - 1).poses
    room.render(poses, camera)
    return (time.perf_counter() - began) / len(poses)


def _spoken(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _write(file: Path, key: dict[str, object], arrays: dict[str, np.ndarray]) -> None:
    """Arrays with the format, the key and a checksum of the contents."""
    text = json.dumps(key, sort_keys=True)
    head = {"format": FORMAT, "key": text, "sha256": _digest(arrays)}
    atomic_write(file, save(arrays, metadata=head))


def _read(file: Path, key: dict[str, object]) -> dict[str, np.ndarray]:
    """The arrays of `file`, or a LociError that says what is wrong with it."""
    fix = f"delete {file}; it is rendered again"
    try:
        content = file.read_bytes()
        size = int.from_bytes(content[:8], "little")
        head = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        arrays = load(content)
    except OSError as error:
        raise LociError(f"cannot read episode {file}: {error.strerror}; {fix}") from error
    except (SafetensorError, ValueError, AttributeError) as error:
        raise LociError(f"episode {file} is truncated or no episode; {fix}") from error
    if head.get("format") != FORMAT:
        raise LociError(f"episode {file} is of version {head.get('format')}, not {FORMAT}; {fix}")
    if head.get("key") != json.dumps(key, sort_keys=True):
        raise LociError(f"episode {file} holds another episode than its name says; {fix}")
    if head.get("sha256") != _digest(arrays):
        raise LociError(f"episode {file} is corrupt (checksum); {fix}")
    return arrays


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
