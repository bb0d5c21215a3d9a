"""What a stream keeps: named stores with one contract.

A store takes in frames that were really seen or finally generated (`write`), and is asked for what
a chunk at some poses needs of the past (`query`); it answers with evidence. In training it answers
for all chunks of an episode at once (`packed`): what training sees is what streaming sees. Keys and
values, carried states and frames are three stores (`streaming/`). A memory may bring others
(`Memory.stores`): a map, a bank of key frames.

Stores are asked in order, and each adds to the evidence that those before it gave.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loci.attention.dense import AttentionFn
from loci.errors import LociError
from loci.geometry import Camera
from loci.memory.frames import Frames
from loci.memory.recurrent import Read, StateHook, own
from loci.rules.rule import Coords

Tree = dict[str, Tensor]


@dataclass(frozen=True)
class Conditioning:
    """What enters the video transformer beside the noise of G chunks, through its ports
    (`models/ports.py`); None is nothing.

    channels (B, G, n, C', h, w): further latent channels. render (B, G, n, C, h, w): latents for
    the parallel branch. tokens (B, G, S, W) for cross-attention, and which of them are there,
    (B, G, S) booleans (None: all).
    """

    channels: Tensor | None = None
    render: Tensor | None = None
    tokens: Tensor | None = None
    present: Tensor | None = None

    @staticmethod
    def cat(chunks: Sequence[Conditioning]) -> Conditioning:
        """Chunks side by side, in their order."""
        names = ("channels", "render", "tokens", "present")
        parts = {name: [getattr(chunk, name) for chunk in chunks] for name in names}
        return Conditioning(**{
            name: None if part[0] is None else torch.cat(part, dim=1)
            for name, part in parts.items()
        })


@dataclass(frozen=True)
class Evidence:
    """What a pass meets of the past.

    selected (B, G, F) booleans: cached frames that were retrieved for each of G chunks. frames:
    raw frames beside them, rows B * G. conditioning: what enters beside the noise. states: what
    blocks carry. attention: whom the tokens see.
    """

    selected: Tensor | None = None
    frames: Frames | None = None
    conditioning: Conditioning | None = None
    states: StateHook | None = None
    attention: AttentionFn | None = None

    @property
    def attend(self) -> AttentionFn:
        """The attention, which some store has to answer."""
        if self.attention is None:
            raise LociError("no store answers whom tokens see; keep a key-value cache")
        return self.attention

    def conditioned(self, more: Conditioning) -> Evidence:
        """With more conditioning. LociError where two stores use one port."""
        if self.conditioning is None:
            return replace(self, conditioning=more)
        merged = {}
        for name in ("channels", "render", "tokens", "present"):
            ours, theirs = getattr(self.conditioning, name), getattr(more, name)
            if ours is not None and theirs is not None:
                raise LociError(f"two stores condition through '{name}'; give each its own port")
            merged[name] = theirs if ours is None else ours
        return replace(self, conditioning=Conditioning(**merged))


@dataclass(frozen=True)
class Query:
    """What is asked for chunks, one a stream.

    streams: which ones; written: frames that each has seen. coords: tokens (S,) of a chunk, for a
    stream that has seen nothing yet. poses (B, n, 4, 4) of its frames, relative to each stream's
    first frame, fp64 on the CPU; None where frames have no poses. read: how its tokens read states.
    """

    streams: list[int]
    written: list[int]
    coords: Coords
    poses: Tensor | None = None
    read: Read = own


@dataclass(frozen=True)
class Write:
    """What is written: `frames` (B, F, ...), and their tokens at coords (S,), for a stream that has
    seen nothing yet; where no frames come, actions that were carried out."""

    streams: list[int]
    written: list[int]
    coords: Coords
    frames: Frames | None = None


@dataclass(frozen=True)
class Chunks:
    """Chunks of an episode whose tokens go side by side: G of them, each of which knows of frame
    before[g] and nothing later. coords (S,) of their tokens; poses (B, G, n, 4, 4) of their frames,
    None where these have none; read: as for `Query`."""

    before: list[int]
    coords: Coords
    poses: Tensor | None = None
    read: Read = own


@dataclass(frozen=True)
class Episode:
    """A whole episode in one pass: its clean frames (B, T, ...), their tokens at `coords` (None:
    they do not go through the network), and chunks of noise beside them.

    dropped (B,): episodes that retrieve nothing. form: how to attend, a name of
    `streaming/kv_cache.py`.
    """

    frames: Frames
    coords: Coords | None
    chunks: list[Chunks]
    dropped: Tensor | None = None
    form: str = "windowed"


@dataclass(frozen=True)
class Setting:
    """For whom a store is made: streams of a model with latents `latent_shape` (C, h, w) of images
    of `camera`, `tokens` tokens a frame. encode: pictures (R, H, W, 3) uint8 -> latents (R, C, h,
    w)."""

    batch: int
    latent_shape: tuple[int, int, int]
    tokens: int
    camera: Camera
    device: torch.device
    dtype: torch.dtype
    encode: Callable[[Tensor], Tensor]


class Store(ABC):
    """One thing that a batch of streams keeps. `name`: of its own among those of a stream."""

    name: str

    def admit(  # noqa: B027 (most stores take in any frame that the model does)
        self, streams: Sequence[int], written: Sequence[int], frames: Frames
    ) -> None:
        """LociError for frames that cannot be taken in; asked before any store changes."""

    @abstractmethod
    def write(self, write: Write, found: Evidence) -> Evidence:
        """Take in frames. Returns what their own pass through the network meets besides `found`."""

    def commit(self) -> None:  # noqa: B027 (most stores have nothing left to do)
        """The pass of the last `write` is through."""

    @abstractmethod
    def query(self, query: Query, found: Evidence) -> Evidence:
        """What chunks need of the past, besides `found`. Changes nothing."""

    def packed(self, episode: Episode, found: Evidence) -> Evidence:
        """The same for all chunks of an episode that starts from nothing, besides `found`.

        By default the episode is written to this store, which is empty, frame by frame, and asked
        before every chunk: right for what depends on the data alone. Only conditioning can be
        joined so.
        """
        rows, at, answers = list(range(len(episode.frames.latents))), 0, {}
        asked = [(chunk, n) for n, chunk in enumerate(episode.chunks) if chunk.poses is not None]
        moments = sorted({frame for chunk, _ in asked for frame in chunk.before})
        for moment in moments:
            while at <= moment:
                frame = episode.frames[at : at + 1]
                self.write(Write(rows, [at] * len(rows), _NOWHERE, frame), Evidence())
                self.commit()
                at += 1
            for chunk, n in asked:
                for group, before in enumerate(chunk.before):
                    if before == moment and chunk.poses is not None:
                        query = Query(rows, [at] * len(rows), chunk.coords, chunk.poses[:, group])
                        answers[n, group] = self.query(query, Evidence()).conditioning
        parts = [answers[key] for key in sorted(answers) if answers[key] is not None]
        return found.conditioned(Conditioning.cat(parts)) if parts else found

    @abstractmethod
    def reset(self, streams: Sequence[int]) -> None:
        """Empty streams."""

    @abstractmethod
    def snapshot(self, written: Sequence[int]) -> Tree:
        """All that counts of streams that have seen so many frames, copied."""

    @abstractmethod
    def check(self, tree: Mapping[str, Tensor], written: Sequence[int]) -> None:
        """LociError where a snapshot does not fit this store."""

    @abstractmethod
    def restore(self, tree: Mapping[str, Tensor], written: Sequence[int]) -> None:
        """Take over a snapshot that `check` let pass, copied."""

    def leave_graph(self) -> None:  # noqa: B027 (what is kept may have no graph)
        """All streams are empty: the graph that made what was kept must not live on."""

    @abstractmethod
    def bytes(self, stream: int) -> int:
        """Bytes kept for a stream."""


class PlaceStore(Store):
    """A store that describes the place, which is still there when the episode is over: another
    stream may begin with what this one knows of it. In a snapshot that is called STREAM.PART."""

    @abstractmethod
    def place(self, stream: int) -> Tree:
        """What a stream knows of the place, relative to its first frame, copied."""

    @abstractmethod
    def check_place(self, tree: Mapping[str, Tensor]) -> None:
        """LociError where the place of a stream does not fit this store."""

    @abstractmethod
    def begin_in(self, stream: int, tree: Mapping[str, Tensor], frames: int) -> None:
        """Take over, for a stream that has seen nothing, a place that `check_place` let pass, of a
        stream that had seen so many frames. They are numbered from 0 again."""

    @abstractmethod
    def reanchor(self, stream: int, change: Tensor) -> None:
        """From here on, what stood at P in a stream stands at change @ P (4, 4)."""


_NOWHERE = Coords(*(torch.zeros(0, dtype=torch.long),) * 6)


def below(tree: Mapping[str, Tensor], prefix: str) -> Tree:
    """The part of a tree whose names begin with `prefix`, without it."""
    cut = len(prefix) + 1
    return {name[cut:]: value for name, value in tree.items() if name.startswith(f"{prefix}.")}


