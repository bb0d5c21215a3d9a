"""A session of a world model: write what was seen, read what a chunk may see, denoise it.

`write` commits; `read` asks the memory for a chunk at some poses; `denoise` runs the network
against that and never changes the memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from loci.attention.cross import CrossKV
from loci.errors import LociError
from loci.errors.arguments import check_tensor, checked_arguments
from loci.flow import OnStep, times
from loci.geometry import checked_poses
from loci.memory.stores import Evidence, Tree
from loci.rules.rule import Coords
from loci.streaming import files
from loci.streaming.guidance import Guidance
from loci.streaming.int8_kv import FORM
from loci.streaming.place import Place
from loci.streaming.stream import Stream, modulation

if TYPE_CHECKING:
    from loci.models.chunk_path import ChunkLayout
    from loci.models.world import WorldModel


@dataclass(frozen=True, eq=False)
class Reading:
    """What the chunk of some streams may see of the past. It holds until one of them is next
    written, reset or restored; `versions` tell. coords: its tokens, for a stream that has seen
    nothing yet. modulations: what the network makes of the times that the chunk is known to be
    denoised at. guidance: its rows are then 2 B, see `Guidance`."""

    streams: list[int]
    versions: list[object]
    coords: Coords
    layout: ChunkLayout
    evidence: Evidence
    text: CrossKV | None
    modulations: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict)
    guidance: Guidance | None = None


@checked_arguments
class Session:
    """Memory of `batch` streams of one world model. Streams may have different lengths. It begins
    with the guidance of the model's configuration.

    capacity: frames that fit before the buffers grow, by doubling (default: one and a chunk).
    gradients: writes and reads keep the graph, as far as autograd is on, until all streams are
    reset. They do not by default: a stream has no end, and its graph would have none either.
    kv_as: "int8" keeps keys and values in eight bits, see `int8_kv.py`.
    """

    def __init__(
        self, model: WorldModel, batch: int = 1, capacity: int | None = None,
        gradients: bool = False, kv_as: str | None = None,
    ):
        config = model.config
        capacity = 1 + config.chunk if capacity is None else capacity
        rows, cols = model.positions.small
        scratch = config.chunk * model.tokens + config.memory.mixed * rows * cols
        self.model, self.batch = model, batch
        self.stream = Stream(model, batch, capacity, gradients, scratch=scratch, kv_as=kv_as)
        self.kv_as = kv_as
        self._coords: dict[tuple[int, int], Coords] = {}  # of chunks of n frames beside m
        self.guidance: Guidance | None = None
        self.tell(None)
        self.guide(config.guidance, config.negative)

    def init(
        self, text: Tensor | str | Sequence[str] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Session:
        """Start all streams over, and `tell` them a text."""
        self.tell(text, lengths)
        self.reset()
        return self

    def tell(
        self, text: Tensor | str | Sequence[str] | None, lengths: Sequence[int] | None = None,
        streams: Sequence[int] | None = None,
    ) -> Session:
        """From here on some streams (default: all) read another text; what was written stays as it
        is.

        text: a sentence for all, or a list of one a stream, where the model reads sentences (its
        `text`); or embeddings (B, S, text_dim) of the given lengths, S by default. Their keys and
        values are computed here, once. None: "" where the model reads sentences, otherwise it runs
        without its cross-attention. Raises LociError, with nothing changed, for other rows, for a
        model without text, and where some streams would read none beside others.
        """
        if text is None and lengths is not None:
            raise LociError("lengths of no text; give its embeddings too")
        if text is None and self.model.config.text is not None:
            text = ""
        names = self.stream.names(streams, self.batch if streams is None else len(streams))
        new = None if text is None else self._encoded(text, lengths, len(names))
        self.stream.text = CrossKV.replaced(self.stream.text, names, self.batch, new)
        return self

    def guide(
        self, scale: float | None, away: Tensor | str | Sequence[str] = "",
        lengths: Sequence[int] | None = None,
    ) -> Session:
        """From here on what is read is denoised with classifier-free guidance: the network's output
        under the text `away` plus `scale` times what the told text changes in it.

        scale: 1 and None are none. away: the negative text, as `tell` takes texts; it is no part of
        the memory, which is written under the told text alone. A chunk is read once, and both texts
        go through the network together. Raises LociError, with nothing changed, for a scale that is
        no number, for other rows, and for a model without text.
        """
        if scale is None or scale == 1:
            self.guidance = None
            return self
        if not math.isfinite(scale):
            raise LociError(f"guidance of {scale}; give a number, 1 for none")
        self.guidance = Guidance(float(scale), self._encoded(away, lengths, self.batch))
        return self

    @property
    def lengths(self) -> list[int]:
        """Frames written to each stream."""
        return list(self.stream.written)

    def write(
        self, latents: Tensor, poses: Tensor, streams: Sequence[int] | None = None, *,
        gauge: int = 0, depth: Tensor | None = None, intrinsics: Tensor | None = None,
        images: Tensor | None = None,
    ) -> None:
        """Commit frames: latents (B, T, C, h, w) at camera-to-world poses (B, T, 4, 4).

        `streams` names the streams that the rows belong to (default: all). Poses are absolute, in
        one world frame a stream; they enter the model relative to the stream's first frame. gauge:
        that they belong to, see `reanchor`. depth (B, T, H, W) in metres, intrinsics (B, T, 3, 3)
        and images (B, T, H, W, 3) uint8: wanted where the memory asks for them (`Memory.wants`), of
        the first frame at least. Raises LociError, with nothing changed, for rows, shapes, poses or
        latents that are not what they should be, and for poses of another gauge than the stream's.
        A pass that is itself cut short (out of memory, Ctrl-C) leaves these streams half-written:
        they have to be reset, or a snapshot restored.
        """
        self.stream.write(
            latents, poses, streams, gauge, depth=depth, intrinsics=intrinsics, images=images
        )

    def reanchor(
        self, change: Tensor, gauge: int, streams: Sequence[int] | None = None
    ) -> Session:
        """Poses are given in a new gauge from here on, in which what stood at P stands at
        change @ P (4, 4), in some streams (default: all).

        A gauge is the frame of coordinates that poses are given in, by a number; streams begin in
        gauge 0. All that a stream keeps is relative to its first frame and moves with it: what is
        generated stays the same. Raises LociError for what is no rigid motion, and for a gauge that
        a stream stands in already.
        """
        self.stream.reanchor(change, gauge, streams)
        return self

    def place(self, stream: int = 0) -> Place:
        """What a stream knows of its place, copied, for another session to begin in. Raises
        LociError for a stream that has seen nothing, and a memory that knows no places."""
        return self.stream.place(stream)

    def begin_in(self, place: Place, streams: Sequence[int] | None = None) -> Session:
        """Streams (default: all), which are to be empty, begin in a place that another one came to
        know: they take over its map and nothing of its episode.

        Poses are then in the world frame, and the gauge, of that one. Raises LociError, with
        nothing changed, for a place of another camera, codec or kind of map, and for a stream that
        has seen something.
        """
        self.stream.begin_in(place, streams)
        return self

    def read(
        self, poses: Tensor, streams: Sequence[int] | None = None, *, gauge: int = 0
    ) -> Reading:
        """What a chunk at poses (B, n, 4, 4) of a gauge may see of the past. Changes nothing.

        Raises LociError for bad poses, for another gauge than the streams', and for a stream that
        has seen no frame yet.
        """
        poses = checked_poses(poses)
        stream, model = self.stream, self.model
        names, guidance = stream.names(streams, len(poses)), self.guidance
        stream.check_begun(names, "nothing to continue from: write a first frame before generating")
        relative, rows, text = stream.relative(names, poses, gauge), names, stream.text_of(names)
        if guidance is not None:
            if text is None:
                raise LociError("guidance towards no text; tell one, or guide(None)")
            relative, rows = torch.cat([relative, relative]), names * 2
            text = guidance.texts(text, names)
        span, beside = poses.shape[1], model.beside([stream.written[name] for name in names])
        if (span, beside) not in self._coords:
            start = torch.zeros(1, dtype=torch.long)
            self._coords[span, beside] = model.positions.chunks(start, span, beside)
        coords = self._coords[span, beside]
        with stream.graph():
            evidence = stream.query(rows, coords, relative)
            layout = model.chunks.layout(
                relative[:, None], stream.shifted(coords, rows), evidence
            )
        return Reading(
            names, stream.versions(names), coords, layout, evidence, text, guidance=guidance
        )

    def denoise(self, reading: Reading, x: Tensor, time: float | Tensor) -> Tensor:
        """The network's output for a noisy chunk x (B, n, C, h, w) at a time in 0..1, one or (B,).

        Any number of calls leaves the memory bitwise unchanged. Raises LociError for a reading
        that is out of date, and for a time that is no number from 0 to 1.
        """
        self.stream.check_latents(x, "x", finite=False)
        self._check_reading(reading, x)
        return self._denoise(reading, x, time)

    @torch.no_grad()
    def generate(
        self, poses: Tensor, noise: Tensor, steps: int | None = None,
        streams: Sequence[int] | None = None, *, gauge: int = 0, solver: str = "euler",
        on_step: OnStep | None = None,
    ) -> Tensor:
        """A finished chunk (B, n, C, h, w) at poses (B, n, 4, 4) of a gauge from noise. Commits
        nothing.

        steps: of the solver, "euler", "midpoint" or "heun" (default: the model's number). on_step:
        (number, time, chunk) after each step -> a chunk that takes its place, or None. Raises
        LociError for noise that is not finite, and for an unknown solver.
        """
        self.stream.check_latents(noise, "noise")
        reading = self.read(poses, streams, gauge=gauge)
        return self.solve(reading, noise, steps, solver=solver, on_step=on_step)

    @torch.no_grad()
    def solve(
        self, reading: Reading, noise: Tensor, steps: int | None = None, *, solver: str = "euler",
        on_step: OnStep | None = None,
    ) -> Tensor:
        """A finished chunk (B, n, C, h, w) from noise, for what was read; else as `generate`.
        Raises LociError for a reading that is out of date or of another chunk, too."""
        self.stream.check_latents(noise, "noise")
        self._check_reading(reading, noise)
        config = self.model.config
        steps = config.steps if steps is None else steps
        flow = config.flow
        asked = dict.fromkeys(flow.told(time) for time in flow.evaluations(steps, solver))
        reading.modulations.update(self.model.dit.modulations(list(asked)))
        predict = partial(self._denoise, reading)
        return config.flow.solve(
            predict, noise.to(self.stream.device), steps, solver, on_step
        )

    def fill(self, frames: int) -> Session:
        """Stand as if `frames` frames had been written to every stream, in no time: true tables,
        keys and values of noise, carried states as they are. For measuring costs.

        Raises LociError for streams that hold something, and for a memory of poses or actions.
        """
        self.stream.fill(frames)
        return self

    def snapshot(self, streams: Sequence[int] | None = None) -> Tree:
        """The whole memory of some streams (default: all) as a plain tree of tensors, copied. It is
        that of a session of as many streams."""
        return self.stream.snapshot(streams)

    def restore(
        self, tree: Mapping[str, Tensor], streams: Sequence[int] | None = None
    ) -> Session:
        """Some streams (default: all) go back to a snapshot of as many. LociError, and nothing
        changed, if it is not one of this model and of so many streams."""
        self.stream.restore(tree, streams)
        return self

    def fork(self, capacity: int | None = None) -> Session:
        """An independent session with the same past; capacity as for a new one."""
        fork = Session(self.model, self.batch, capacity, self.stream.gradients, self.kv_as)
        fork.guidance = self.guidance
        return fork.restore(self.snapshot())

    def reset(self, streams: Sequence[int] | None = None) -> None:
        """Empty streams (default: all). Their text stays: `init` starts over with another."""
        self.stream.reset(streams)

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file, whole or not at all."""
        files.save(path, self.model, self.snapshot(), self.stream.place_stores)

    @classmethod
    def load(cls, model: WorldModel, path: str | Path) -> Session:
        """Continue from a saved memory, with keys and values as they are in the file.

        Raises LociError for a damaged file, one of another version or of another model.
        """
        return cls.of(model, files.load(path, model))

    @classmethod
    def of(cls, model: WorldModel, tree: Mapping[str, Tensor]) -> Session:
        """A session that goes on from a snapshot, with keys and values as they are in it."""
        packed = tree["kv.keys.0"].dtype == torch.int8
        return cls(model, len(tree["written"]), kv_as=FORM if packed else None).restore(tree)

    def tokens(self, stream: int = 0) -> int:
        """Tokens held for a stream; a raw frame counts as those that it will become."""
        return self.stream.tokens(stream)

    def bytes(self, stream: int = 0) -> int:
        """Bytes of keys and values, carried states and raw frames held for a stream."""
        return self.stream.bytes(stream)

    def _check_reading(self, reading: Reading, x: Tensor) -> None:
        """LociError for a reading that is out of date, or of other chunks than x."""
        shape = len(reading.streams), reading.layout.poses.shape[2]
        if x.shape[:2] != shape:
            raise LociError(
                f"a chunk of {tuple(x.shape[:2])} rows and frames for a reading of {shape}; read "
                "the poses of this chunk"
            )
        self.stream.check_version(reading.streams, reading.versions)

    def _denoise(self, reading: Reading, x: Tensor, time: float | Tensor) -> Tensor:
        """`denoise`, for arguments that are known to be right."""
        guidance, noisy = reading.guidance, x
        if guidance is not None:
            noisy = torch.cat([x, x])
            if isinstance(time, Tensor):
                time = times(time, len(x), time.device).repeat(2)
        with self.stream.graph():
            known = modulation(self.model.dit, reading.modulations, time, len(noisy))
            noisy = noisy.to(self.stream.device, self.stream.dtype)[:, None]
            out = self.model.denoise(
                noisy, reading.layout, known, reading.evidence, reading.text
            )[:, 0].to(x.dtype)
            return out if guidance is None else guidance.combine(out)

    def _encoded(
        self, text: Tensor | str | Sequence[str], lengths: Sequence[int] | None, rows: int
    ) -> CrossKV:
        """Keys and values of a text, a row a stream; see `tell`."""
        if isinstance(text, Tensor):
            check_tensor(text, "text", (rows, "S", "C"), note="a row a stream")
            lengths = [text.shape[1]] * rows if lengths is None else lengths
        else:
            sentences = [text] * rows if isinstance(text, str) else list(text)
            if len(sentences) != rows:
                raise LociError(
                    f"{len(sentences)} sentences for {rows} streams; give one each"
                )
            if lengths is not None:
                raise LociError("sentences have their own lengths; give lengths with embeddings")
            text, lengths = self.model.embed(sentences)
        with self.stream.graph():
            return self.model.dit.encode_text(text.to(self.stream.device), lengths)
