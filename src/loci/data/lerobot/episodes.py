"""The episodes of a LeRobot v3.0 dataset, as training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from loci.data.base import ACTIONS, POSES, DataConfig, Episodes, EpisodeSpec, demonstration
from loci.errors import LociError
from loci.geometry import checked_poses
from loci.io.mosaic import mosaic
from loci.io.progress import tracked
from loci.models.embodiment import Embodiment, RobotCamera, Vector

if TYPE_CHECKING:
    from loci.data.lerobot.dataset import Episode


@dataclass(frozen=True, kw_only=True)
class LeRobotData(DataConfig, name="lerobot"):
    """Demonstrations that were recorded, in a LeRobot v3.0 dataset.

    folder: the dataset. episodes: the first so many (None: all of them). cameras: the first one
    lies at the bottom of the mosaic. poses: the column of the camera's pose, camera-to-world, 16
    numbers or 4x4, in metres, where there is one and a world model is to know it.
    """

    folder: str
    episodes: int | None = None
    cameras: tuple[str, ...] = ("head", "left_wrist", "right_wrist")
    poses: str | None = None

    def __post_init__(self) -> None:
        if self.episodes is not None and self.episodes < 1:
            raise LociError(f"{self.episodes} episodes of {self.folder}; use 1 or more")
        if not self.cameras:
            raise LociError(f"no camera of {self.folder} is named; give one, or three")

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({ACTIONS, POSES} if self.poses else {ACTIONS})

    @property
    def camera_names(self) -> tuple[str, ...]:
        return self.cameras

    def embodiment(self) -> Embodiment:
        """The robot that the dataset describes; LeRobot knows no units."""
        from loci.data.lerobot.dataset import Dataset
        from loci.data.lerobot.record import ACTION, STATE

        dataset = Dataset.open(self.folder)
        sizes = {name: dataset.features[dataset.camera(name)].shape for name in self.cameras}
        state, actions = (
            Vector(names=dataset.features[name].axis_names if name in dataset.features else ())
            for name in (STATE, ACTION)
        )
        used = dataset.entries[: self.episodes]
        return Embodiment(
            cameras=tuple(
                RobotCamera(name=name, height=shape[0], width=shape[1])
                for name, shape in sizes.items()
            ),
            state=state, actions=actions, rate=float(dataset.fps),
            instructions=tuple(dict.fromkeys(entry.tasks[0] for entry in used if entry.tasks)),
        )

    def small(self) -> Self:
        return self

    def load(self, spec: EpisodeSpec) -> Episodes:
        """All episodes, decoded and encoded. LociError where they do not fit the model."""
        from loci.data.lerobot.dataset import Dataset

        dataset = Dataset.open(self.folder)
        count = len(dataset) if self.episodes is None else self.episodes
        if not len(dataset):
            raise LociError(f"{self.folder} has no episodes to learn from; record some")
        if count > len(dataset):
            raise LociError(
                f"{dataset.folder} has {len(dataset)} episodes, and {count} are wanted; "
                "set `episodes` to fewer or record more"
            )
        episodes = (dataset.episode(number) for number in range(count))
        return Episodes.join([
            self._one(episode, spec) for episode in tracked(episodes, "encoding episodes", count)
        ])

    def _one(self, episode: Episode, spec: EpisodeSpec) -> Episodes:
        from loci.data.lerobot.record import ACTION, STATE

        moments = np.arange(0, len(episode), spec.every)
        found = {}
        if spec.actions:
            proprio, actions = numbers(episode, STATE)[moments], numbers(episode, ACTION)
            found = {"proprio": torch.tensor(proprio), "actions": torch.tensor(actions)}
        if self.poses is not None:
            found["poses"] = read_poses(episode, self.poses, moments)
        views = [episode.frames(name, moments) for name in self.cameras]
        video = torch.from_numpy(mosaic(views, spec.camera))
        return demonstration(video, spec, len(episode), episode.task, **found)


def numbers(episode: Episode, name: str) -> np.ndarray:
    """A column of finite numbers; LociError for an empty one, NaN and infinity."""
    values = episode[name]
    if not len(values) or not np.isfinite(values).all():
        what = "holds NaN or infinity" if len(values) else "is empty"
        raise LociError(
            f"'{name}' of episode {episode.index} {what}; leave that episode out "
            "(loci data check names all of them)"
        )
    return values


def read_poses(episode: Episode, name: str, moments: Sequence[int] | np.ndarray) -> torch.Tensor:
    """Camera-to-world poses (N, 4, 4) at some steps, float64; LociError for what is no motion."""
    values = numbers(episode, name)[moments]
    if values[0].size != 16:
        raise LociError(
            f"'{name}' of episode {episode.index} has {values[0].size} numbers a step; a pose has "
            "16, or 4x4"
        )
    poses = torch.from_numpy(values.reshape(1, -1, 4, 4).astype(np.float64))
    return checked_poses(poses)[0]
