"""Demonstrations, recorded: an expert acts in an environment, successes become episodes.

The environment is one of Gymnasium's in lerobot's convention: observations {"pixels": {camera:
uint8 (H, W, 3)}, "agent_pos": (S,)}, `info["is_success"]`, `info["task_description"]`.
Source: ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from loci.data.lerobot import PREFIX, Dataset
from loci.data.lerobot_format import Feature
from loci.data.lerobot_writer import Writer
from loci.errors import LociError

STATE, ACTION = "observation.state", "action"

# Acts until it is done: the environment after reset, then actions, one a step.
Expert = Callable[[Any], Iterator[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a recording did: seeds kept as episodes, and seeds that the expert did not solve."""

    kept: tuple[int, ...]
    failed: tuple[int, ...]


def recorded_features(env: Any, names: list[str] | None = None) -> dict[str, Feature]:
    """The features of a recording of `env`: its cameras, state and action, `seed`, `next.success`.

    `names`: of the numbers of state and action. The seed makes an episode again.
    """
    observation, _ = env.reset(seed=0)
    (width,) = env.action_space.shape
    state = np.asarray(observation["agent_pos"])
    axes = ["height", "width", "channels"]
    cameras = {
        PREFIX + name: Feature(dtype="video", shape=tuple(image.shape), names=axes)
        for name, image in observation["pixels"].items()
    }
    return {
        **cameras,
        STATE: Feature(dtype="float32", shape=state.shape, names=names),
        ACTION: Feature(dtype="float32", shape=(width,), names=names),
        "next.success": Feature(dtype="bool", shape=(1,)),
        "seed": Feature(dtype="int64", shape=(1,)),
    }


def record(
    env: Any,
    expert: Expert,
    seeds: Iterable[int],
    writer: Writer,
    episodes: int,
    report: Callable[[int, bool], None] = lambda seed, solved: None,
) -> Recorded:
    """Record until the dataset of `writer` has `episodes` episodes.

    For each seed the environment is reset, the expert acts until it stops or the episode ends, and
    the episode is kept if `is_success` held at its end: frame t is what was seen before action t. A
    dataset that has episodes already is continued behind its last seed, so that a killed recording
    ends as one that was not killed. `report` is told each seed and whether it was solved. Raises
    LociError where the seeds run out or are not those of the dataset.
    """
    kept: list[int] = []
    failed: list[int] = []
    left = _behind(iter(seeds), writer)
    while writer.episodes < episodes:
        seed = next(left, None)
        if seed is None:
            raise LociError(
                f"the seeds ran out after {writer.episodes} of {episodes} episodes "
                f"({len(failed)} were not solved); give more"
            )
        frames, task, solved = _play(env, expert, seed)
        (kept if solved else failed).append(seed)
        if solved:
            writer.add_episode(frames, task)
        report(seed, solved)
    return Recorded(kept=tuple(kept), failed=tuple(failed))


def _behind(seeds: Iterator[int], writer: Writer) -> Iterator[int]:
    """The seeds that follow the last one of the dataset."""
    if not writer.episodes:
        return seeds
    last = int(Dataset.open(writer.folder).episode(writer.episodes - 1)["seed"][0])
    if last not in seeds:
        raise LociError(
            f"{writer.folder} ends with seed {last}, which is not to be recorded; "
            "give its seeds or another folder"
        )
    return seeds


def _play(env: Any, expert: Expert, seed: int) -> tuple[dict[str, np.ndarray], str, bool]:
    """One episode's features, its task, and whether it ended in success."""
    columns: dict[str, list[Any]] = defaultdict(list)
    observation, info = env.reset(seed=seed)
    task = str(info.get("task_description") or getattr(env, "task_description", ""))
    for action in expert(env):
        for name, image in observation["pixels"].items():
            columns[PREFIX + name].append(np.array(image))
        columns[STATE].append(np.asarray(observation["agent_pos"], np.float32))
        columns[ACTION].append(np.asarray(action, np.float32))
        observation, _, terminated, truncated, info = env.step(columns[ACTION][-1])
        columns["next.success"].append(bool(info["is_success"]))
        if terminated or truncated:
            break
    frames = {name: np.stack(values) for name, values in columns.items()}
    frames["seed"] = np.full(len(columns[ACTION]), seed)
    return frames, task, bool(columns["next.success"] and columns["next.success"][-1])
