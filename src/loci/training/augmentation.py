"""How episodes are changed before they are learnt from, a setting a line. (Ours, but for
`clean_noise`.)"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from loci.config import Config
from loci.data.base import Episodes
from loci.errors import LociError
from loci.memory import Compose, Memory

# Less of the scale of the actions is no movement: the tabletop's chunks are below or above it by
# far (waiting up to 0.045, moving 0.07 and more).
IDLE = 0.05


@dataclass(frozen=True, kw_only=True)
class WorldAugmentation(Config):
    """Of a world model's episodes.

    clean_noise: clean frames are noised up to this level, of which the model is told, so that it
        bears its own small mistakes (MemoryWAM's clean-latent augmentation).
    """

    clean_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.clean_noise < 1:
            raise LociError("clean_noise is a noise level; use 0 up to, not including, 1")


@dataclass(frozen=True, kw_only=True)
class PolicyAugmentation(Config):
    """Of demonstrations. Together they let a policy remember for longer than any of them lasts.

    clean_noise: clean frames are noised up to this level, of which the model is told (MemoryWAM).
    pause_chance: before every frame time goes on with this chance, without being seen, so that
        distances in time grow (randomised positions, arXiv 2305.16843).
    pause_frames: by up to so many frames.
    pause_share: in this share of the steps; in the others frames follow each other as played.
    lead_frames: in half of the steps the first frame is seen up to so many times more, before the
        episode: it fills the memory and teaches nothing to do.
    linger_frames: in nearly half of the steps the first frame of every wait is seen up to so many
        times more: what the robot waits for takes longer than in any demonstration.
    windows: each step picks the memory's window among these (none: it stays as it is).
    """

    clean_noise: float = 0.0
    pause_chance: float = 0.0
    pause_frames: int = 24
    pause_share: float = 1.0
    lead_frames: int = 0
    linger_frames: int = 0
    windows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("clean_noise", "pause_chance", "pause_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise LociError(f"augmentation.{name} is {getattr(self, name)}; use 0 to 1")
        for name, least in (("pause_frames", 1), ("lead_frames", 0), ("linger_frames", 0)):
            if getattr(self, name) < least:
                raise LociError(
                    f"augmentation.{name} is {getattr(self, name)}; use {least} or more"
                )

    def check(self, memory: Memory) -> None:
        """Raise LociError where a memory cannot be trained so."""
        if self.lead_frames and memory.executed:
            raise LociError(
                "before an episode nothing is carried out; set augmentation.lead_frames to 0, or "
                "keep no action history"
            )
        for window in self.windows:
            with_window(memory, window)

    def linger(self, episodes: Episodes, scale: Tensor, draw: Generator) -> Episodes:
        """The episodes of a step with longer waits. scale (A,): of the actions' normalisation."""
        if not self.linger_frames:
            return episodes
        most = max(0, int(_between(-self.linger_frames, self.linger_frames, draw)))
        valid = episodes.demonstrated().valid
        more = torch.randint(0, most + 1, valid.shape[:2], generator=draw)
        return repeat_frames(episodes, more * wait_starts(episodes, scale))

    def lead(self, draw: Generator) -> int:
        """How many times more the first frame is seen in this step."""
        if not self.lead_frames:
            return 0
        return max(0, int(_between(-self.lead_frames, self.lead_frames, draw)))

    def pauses(self, shape: tuple[int, int], draw: Generator) -> Tensor | None:
        """By how many frames time goes on before each frame (B, T); None: in this step it does not.

        At a share of 1 nothing is drawn for it, as in the recorded runs.
        """
        if not self.pause_chance:
            return None
        if self.pause_share < 1 and not torch.rand((), generator=draw) < self.pause_share:
            return None
        happens = torch.rand(shape, generator=draw) < self.pause_chance
        return torch.randint(1, self.pause_frames + 1, shape, generator=draw) * happens

    def window(self, draw: Generator) -> int | None:
        """The memory's window in this step; None: its own."""
        if not self.windows:
            return None
        return self.windows[int(torch.randint(len(self.windows), (), generator=draw))]


def wait_starts(episodes: Episodes, scale: Tensor) -> Tensor:
    """Frames (E, T) at which the robot begins to go on waiting: the first of those in a row where
    it hardly moves for the whole chunk before and after.

    As a vector, the range of its actions is at most IDLE of `scale` (A,). What it did is seen in
    earlier frames: to see one of these again is to wait for longer, and makes nothing happen twice.
    """
    did = episodes.demonstrated()
    spread = did.actions.amax(dim=2) - did.actions.amin(dim=2)
    idle = (spread.norm(dim=-1) <= IDLE * scale.norm()) & did.valid.all(-1)
    goes_on = idle & pad(idle, (1, -1))
    return goes_on & ~pad(goes_on, (1, -1))


def repeat_frames(episodes: Episodes, more: Tensor) -> Episodes:
    """The same episodes with frame t of episode e seen `more[e, t]` times more, (E, T). What was
    done at it counts (`valid`) the last time."""
    own = torch.arange(more.shape[1]) < episodes.frames[:, None]
    counts = (1 + more) * own
    frames, longest = torch.arange(counts.shape[1]), int(counts.sum(1).max())
    index = torch.stack([
        pad(frames.repeat_interleave(each), (0, longest - int(each.sum())), value=-1)
        for each in counts
    ])
    rows = torch.arange(len(index))[:, None]
    last = index != pad(index[:, 1:], (0, 1), value=-1)
    parts = {name: part[rows, index] for name, part in episodes.parts().items()}
    parts["valid"] = parts["valid"] & last[..., None]
    return replace(episodes, frames=counts.sum(1), **parts)


def repeat_first(frames: Tensor, times: int) -> Tensor:
    """Frames (B, T, ...) with the first one so many times more."""
    return torch.cat([frames[:, :1].repeat_interleave(times, dim=1), frames], dim=1)


def with_window(memory: Memory, window: int) -> Memory:
    """The same memory with another window. LociError for one that has none."""
    changes: dict[str, Any] = {"window": window}
    if isinstance(memory, Compose):
        varied = [with_window(m, window) if hasattr(m, "window") else m for m in memory.members]
        if not any(hasattr(m, "window") for m in varied):
            raise LociError("none of the composed memories has a window; leave `windows` out")
        changes = {"members": tuple(varied)}
    elif not hasattr(memory, "window"):
        raise LociError(f"{type(memory).__name__} has no window to vary; leave `windows` out")
    return dataclasses.replace(memory, **changes)


def _between(low: int, high: int, draw: Generator) -> Tensor:
    """A whole number from `low` to `high`, both included."""
    return torch.randint(low, high + 1, (), generator=draw)
