"""Trips through rooms and flats with their ground truth: rendered, kept, checked when read.

What models are judged on. What they learn from is `rooms.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loci.data.walks import FORMAT
from loci.errors import LociError
from loci.geometry import Camera
from loci.io.kept import keep, read_any, read_kept
from loci.worlds.rooms.courses import interior_of, way_through


@dataclass(frozen=True, eq=False)
class Episode:
    """One camera path through one room or flat, rendered.

    rgb uint8 (T, H, W, 3); depth float32 (T, H, W) metres along z; identity int16 (T, H, W), an
    index into its objects or -1; poses float64 (T, 4, 4) camera to world; frames 0 .. out-1
    are the way out, the others the way back; pairs int64 (P, 2) of frames with equal poses. `seed`,
    `split` and `path` name the place and the way through it.
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
    """Room (or, for a path through doors, flat) `seed` of `split` seen along the path `path`.

    Raises LociError for an unknown split or path.
    """
    interior = interior_of(path, seed, split)
    way = way_through(path, interior)
    views = interior.render(way.poses, camera or Camera())
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


def read_episode(file: str | Path) -> tuple[Episode, Camera]:
    """The episode in a file of an `EpisodeCache`, and the camera that it was rendered with.

    Raises LociError as `EpisodeCache.get`, and for frames without depth, which trainings keep.
    """
    key, data = read_any(Path(file), FORMAT)
    if "depth" not in data or "camera" not in key:
        raise LociError(f"{file} holds no depth; give an episode that a study keeps, or `rooms`")
    return _episode(data, key["split"], key["seed"], key["path"]), Camera.from_dict(key["camera"])


def _episode(data: Mapping[str, np.ndarray], split: str, seed: int, path: str) -> Episode:
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
        camera = camera or Camera()
        file = self.file(split, seed, path, camera)
        key = {"camera": camera.to_dict(), "path": path, "seed": seed, "split": split}
        if file.exists():
            return _episode(read_kept(file, FORMAT, key), split, seed, path)
        episode = render_episode(split, seed, path, camera)
        arrays = {
            "rgb": episode.rgb,
            "depth": episode.depth,
            "identity": episode.identity,
            "poses": episode.poses,
            "out": np.array(episode.out),
            "pairs": episode.pairs,
        }
        keep(file, FORMAT, key, arrays)
        return episode
