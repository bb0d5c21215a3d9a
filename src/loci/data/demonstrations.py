"""Demonstrations as training wants them: whole episodes in frames and chunks of actions.

Frame t of an episode is what the cameras saw before its chunk t, the actions of `horizon` control
steps. Where a codec makes one latent frame of m images, those are of the moments after every
horizon / m steps of the chunk before (MemoryWAM: 16 and 4). Source: ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from loci.config import Config, added_field
from loci.data.lerobot.dataset import Dataset, Episode
from loci.data.lerobot.record import ACTION, STATE
from loci.errors import LociError
from loci.geometry import Camera
from loci.io.mosaic import mosaic
from loci.io.progress import tracked
from loci.models.codecs.base import Codec

# An episode as it was seen, at every so many steps: pictures (N, h, w, 3) of each camera and the
# robot's states (N, P); and all its actions (S, A).
Seen = tuple[list[np.ndarray], np.ndarray, np.ndarray]


# Less of the scale of the actions is no movement: the tabletop's chunks are below or above it by
# far (waiting up to 0.045, moving 0.07 and more).
IDLE = 0.05


@dataclass(frozen=True)
class Demonstrations:
    """E episodes of up to T frames, filled up with zeros.

    latents (E, T, C, h, w) in half precision; proprio (E, T, P) and actions (E, T, n, A) in the
    robot's own units; valid (E, T, n), where there was an action.
    """

    latents: Tensor
    proprio: Tensor
    actions: Tensor
    valid: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, picks: Sequence[int]) -> Demonstrations:
        """Some episodes, cut to the longest of them."""
        longest = int(self.valid[list(picks)].any(-1).sum(-1).max())
        parts = (getattr(self, field.name) for field in fields(self))
        return Demonstrations(*(part[list(picks), :longest] for part in parts))

    def lengths(self) -> list[int]:
        """Frames of each episode."""
        return self.valid.any(-1).sum(-1).tolist()

    def waits(self, scale: Tensor) -> Tensor:
        """Frames (E, T) at which the robot begins to go on waiting: the first of those in a row
        where it hardly moves for the whole chunk before and after. As a vector, the range of its
        actions is at most IDLE of `scale` (A,), that of their normalisation. What it did is seen
        in earlier frames: to see one of these again is to wait for longer, and makes nothing
        happen twice."""
        spread = self.actions.amax(dim=2) - self.actions.amin(dim=2)
        idle = (spread.norm(dim=-1) <= IDLE * scale.norm()) & self.valid.all(-1)
        goes_on = idle & pad(idle, (1, -1))
        return goes_on & ~pad(goes_on, (1, -1))

    def lingering(self, more: Tensor) -> Demonstrations:
        """The same episodes with frame t of episode e seen `more[e, t]` times more, (E, T). What
        was done at it counts (`valid`) the last time."""
        counts = (1 + more) * self.valid.any(-1)
        frames, longest = torch.arange(counts.shape[1]), int(counts.sum(1).max())
        index = torch.stack([
            pad(frames.repeat_interleave(each), (0, longest - int(each.sum())), value=-1)
            for each in counts
        ])
        rows = torch.arange(len(index))[:, None]
        last = index != pad(index[:, 1:], (0, 1), value=-1)
        found = {field.name: getattr(self, field.name)[rows, index] for field in fields(self)}
        return Demonstrations(**found | {"valid": found["valid"] & last[..., None]})

    def all_actions(self) -> Tensor:
        """Every action that there was, (N, A)."""
        return self.actions[self.valid]

    def all_proprio(self) -> Tensor:
        """The robot's state at every frame, (N, P)."""
        return self.proprio[self.valid.any(-1)]

    @classmethod
    def join(cls, episodes: Sequence[Demonstrations]) -> Demonstrations:
        """Episodes (1, T, ...) of different lengths as one set."""
        longest = max(one.latents.shape[1] for one in episodes)

        def filled(x: Tensor) -> Tensor:
            return pad(x, (0, 0) * (x.dim() - 2) + (0, longest - x.shape[1]))

        return cls(*(
            torch.cat([filled(getattr(one, field.name)) for one in episodes])
            for field in fields(cls)
        ))


@dataclass(frozen=True, kw_only=True)
class DemonstrationConfig(Config):
    """Where demonstrations come from: a LeRobot v3.0 dataset in `folder`, or an expert that does a
    tabletop `task` while they are loaded.

    episodes: the first so many of a dataset (None: all of them); of a task how many (needed there).
    steady: the expert is not pushed. drift: its arms leave their way by so much
    (`Perturbation`).
    cameras: the first one lies at the bottom of the mosaic.
    """

    folder: str | None = None
    task: str | None = None
    episodes: int | None = None
    steady: bool = False
    drift: float = added_field(0.0)
    cameras: tuple[str, ...] = ("head", "left_wrist", "right_wrist")

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.task is None):
            raise LociError("demonstrations come from a folder or from a task; give one of them")
        if self.task is not None and self.episodes is None:
            raise LociError(f"how many episodes of {self.task}? give `episodes`")
        if self.episodes is not None and self.episodes < 1:
            raise LociError(f"{self.episodes} episodes; use 1 or more")
        if self.drift and self.task is None:
            raise LociError(f"drift {self.drift} disturbs the expert of a task; leave it out for "
                            "demonstrations that are there")

    def load(self, codec: Codec, horizon: int, camera: Camera) -> Demonstrations:
        """All episodes, encoded. LociError where they do not fit the model."""
        every, left = divmod(horizon, codec.images_per_frame)
        if left:
            raise LociError(
                f"chunks of {horizon} actions do not split into {codec.images_per_frame} images; "
                "choose a horizon that is a multiple of them"
            )
        found, count = self._episodes(every)
        if not count:
            raise LociError(f"{self.folder} has no episodes to learn from; record some")
        each = [
            encode(*episode, codec, horizon, camera)
            for episode in tracked(found, "encoding demonstrations", count)
        ]
        return Demonstrations.join(each)

    def _episodes(self, every: int) -> tuple[Iterator[Seen], int]:
        """The episodes, seen at every `every`-th step, and how many they are."""
        if self.folder is None:
            from loci.worlds.tabletop.demonstration import Perturbation, watch

            count = int(self.episodes or 0)
            perturbation = Perturbation.of(self.steady, self.drift)
            return watch(str(self.task), count, every, self.cameras, perturbation), count
        dataset = Dataset.open(self.folder)
        count = len(dataset) if self.episodes is None else self.episodes
        if count > len(dataset):
            raise LociError(
                f"{dataset.folder} has {len(dataset)} episodes, and {count} are wanted; "
                "set `episodes` to fewer or record more"
            )
        return (recorded(dataset.episode(n), every, self.cameras) for n in range(count)), count


def recorded(episode: Episode, every: int, cameras: Sequence[str]) -> Seen:
    """What was seen in an episode of a dataset."""
    actions, state = episode[ACTION], episode[STATE]
    for name, values in ((ACTION, actions), (STATE, state)):
        if not len(values) or not np.isfinite(values).all():
            what = "holds NaN or infinity" if len(values) else "is empty"
            raise LociError(
                f"'{name}' of episode {episode.index} {what}; leave that episode out "
                "(loci data check tells of all of them)"
            )
    moments = np.arange(0, len(actions), every)
    views = [episode.frames(name, moments) for name in cameras]
    return views, state[moments], actions


def encode(
    views: Sequence[np.ndarray], state: np.ndarray, actions: np.ndarray, codec: Codec,
    horizon: int, camera: Camera,
) -> Demonstrations:
    """One episode as a set of one: a frame for each chunk, even one that was not finished."""
    joined = codec.images_per_frame
    frames = -(-len(actions) // horizon)
    last = (frames - 1) * joined + 1
    video = mosaic([view[:last] for view in views], camera)
    missing = frames * horizon - len(actions)
    acted = torch.from_numpy(actions.astype(np.float32))
    valid = pad(torch.ones(len(actions), dtype=torch.bool), (0, missing))
    proprio = torch.from_numpy(state[:last:joined].astype(np.float32))
    return Demonstrations(
        codec.encode(torch.from_numpy(video)[None]).half(),
        proprio[None],
        # Actions of a chunk see each other: the last one goes on, instead of a jump to zero.
        torch.cat([acted, acted[-1:].expand(missing, -1)]).view(1, frames, horizon, -1),
        valid.view(1, frames, horizon),
    )
