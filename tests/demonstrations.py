"""Small made-up episodes and a small made-up environment for the tests of datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from loci.data.lerobot_format import Feature

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


class Corridor:
    """An environment in lerobot's convention: walk to the end. Odd seeds cannot be solved."""

    class _Space:
        shape = (2,)

    action_space = _Space()

    def reset(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        self.seed, self.place = seed, 0
        return self._seen(), {"is_success": False, "task_description": f"walk {seed % 3} far"}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.place += int(action[0])
        solved = self.place >= 3 and self.seed % 2 == 0
        return self._seen(), 0.0, False, self.place > 6, {"is_success": solved}

    def _seen(self) -> dict[str, Any]:
        image = np.full((16, 16, 3), 10 * self.place + self.seed, np.uint8)
        return {"pixels": {"head": image}, "agent_pos": np.array([self.place, self.seed], float)}


def walk(env: Corridor) -> Iterator[np.ndarray]:
    """Its expert."""
    for _ in range(4 + env.seed % 3):
        yield np.array([1, 0])
