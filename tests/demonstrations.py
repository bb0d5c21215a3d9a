"""Small made-up episodes and environments for the tests of datasets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from loci.data.lerobot.dataset import Dataset
from loci.data.lerobot.format import Feature
from loci.data.lerobot.writer import Writer

FPS = 10

HEAD, PICTURE = "observation.images.head", "observation.images.picture"
AXES = ["height", "width", "channels"]
FEATURES = {
    HEAD: Feature(dtype="video", shape=(32, 48, 3), names=AXES),
    PICTURE: Feature(dtype="image", shape=(6, 8, 3), names=AXES),
    "observation.state": Feature(dtype="float32", shape=(14,)),
    "action": Feature(dtype="float32", shape=(14,), names=[f"j{i}" for i in range(14)]),
    "pose": Feature(dtype="float64", shape=(2, 3)),
    "next.done": Feature(dtype="bool", shape=(1,)),
    "note": Feature(dtype="string", shape=(1,)),
    "seed": Feature(dtype="int64", shape=(1,)),
}


def images(rng: np.random.Generator, length: int, height: int, width: int) -> np.ndarray:
    """A coloured square on a gradient: uint8 (length, height, width, 3), no two frames alike."""
    ramp = np.linspace(0, 200, width)[None, None, :, None] * np.ones((length, height, 1, 3))
    ramp += np.arange(length)[:, None, None, None] * 0.5
    for frame in ramp:
        row, column = rng.integers(0, height - 4), rng.integers(0, width - 4)
        frame[row : row + 4, column : column + 4] = rng.integers(0, 256, 3)
    return ramp.clip(0, 255).astype(np.uint8)


def episode(seed: int, length: int) -> dict[str, np.ndarray]:
    """All of FEATURES for `length` frames."""
    rng = np.random.default_rng(seed)
    return {
        HEAD: images(rng, length, 32, 48),
        PICTURE: images(rng, length, 6, 8),
        "observation.state": rng.normal(seed, 1, (length, 14)).astype(np.float32),
        "action": rng.normal(-seed, 2, (length, 14)).astype(np.float32),
        "pose": rng.normal(size=(length, 2, 3)),
        "next.done": rng.random(length) < 0.5,
        "note": np.array([f"é{seed}.{t}" for t in range(length)], object),
        "seed": np.full(length, seed),
    }


def write(folder: Path, lengths: list[int], **options: Any) -> list[dict[str, np.ndarray]]:
    """A dataset of episodes of these lengths, two tasks in turn."""
    episodes = [episode(seed, length) for seed, length in enumerate(lengths)]
    with Writer(folder, FPS, FEATURES, "tabletop", quality="lossless", **options) as writer:
        for number, frames in enumerate(episodes):
            assert writer.add_episode(frames, f"task {number % 2}") == number
    return episodes


def same(dataset: Dataset, episodes: list[dict[str, np.ndarray]]) -> None:
    """The dataset holds these episodes, bit for bit."""
    assert len(dataset) == len(episodes)
    first = 0
    for number, (found, wanted) in enumerate(zip(dataset, episodes, strict=True)):
        length = len(wanted["action"])
        assert len(found) == length
        assert found.task == f"task {number % 2}"
        for name, values in wanted.items():
            seen = found.frames(name) if dataset.features[name].visual else found[name]
            np.testing.assert_array_equal(seen, values, strict=True)
        np.testing.assert_array_equal(found["frame_index"], np.arange(length))
        np.testing.assert_array_equal(found["index"], np.arange(first, first + length))
        np.testing.assert_array_equal(found["episode_index"], np.full(length, number))
        np.testing.assert_array_equal(found["task_index"], np.full(length, number % 2))
        times = (np.arange(length) / FPS).astype(np.float32)
        np.testing.assert_array_equal(found["timestamp"], times, strict=True)
        first += length


def equal(one: Path, two: Path) -> None:
    """Two datasets hold the same, in files of the same names."""
    names = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*.*")) for f in (one, two)]
    assert names[0] == names[1]
    assert (one / "meta/info.json").read_text() == (two / "meta/info.json").read_text()
    assert (one / "meta/stats.json").read_text() == (two / "meta/stats.json").read_text()
    for name in names[0]:
        if name.endswith(".parquet"):
            assert pq.read_table(one / name).equals(pq.read_table(two / name)), name
        if name.startswith("data/"):
            groups = [pq.read_metadata(f / name).num_row_groups for f in (one, two)]
            assert groups[0] == groups[1]
    for a, b in zip(Dataset.open(one), Dataset.open(two), strict=True):
        for camera in a.dataset.cameras:
            np.testing.assert_array_equal(a.frames(camera), b.frames(camera))


class Corridor:
    """An environment in lerobot's convention: walk to the end. Odd seeds cannot be solved."""

    def reset(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        self.seed, self.place = seed, 0
        return self._seen(), self._told(False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.place += int(action[0])
        solved = self.place >= 3 and self.seed % 2 == 0
        return self._seen(), 0.0, False, self.place > 6, self._told(solved)

    def _told(self, solved: bool) -> dict[str, Any]:
        return {"is_success": solved, "task_description": f"walk {self.seed % 3} far"}

    def _seen(self) -> dict[str, Any]:
        image = np.full((16, 16, 3), 10 * self.place + self.seed, np.uint8)
        return {"pixels": {"head": image}, "agent_pos": np.array([self.place, self.seed], float)}


def walk(env: Corridor) -> Iterator[np.ndarray]:
    """Its expert."""
    for _ in range(4 + env.seed % 3):
        yield np.array([1, 0])
