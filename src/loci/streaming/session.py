"""The streaming executor: a batch of streams, each with its own memory.

`write` commits: one clean pass over frames that were really seen or are finally generated; in
each layer their keys and values go where the cache's plan says, and carried states advance. `read`
asks the rule what a chunk may see; `denoise` runs the network against that and never changes the
memory. `packed.py` executes the same model under the same rule in one pass; conformance tests hold
the two to each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from loci.attention.cross import Text
from loci.errors import LociError
from loci.flow import times
from loci.geometry import checked_poses, relative_to
from loci.memory.frames import Frames
from loci.rules.rule import Coords
from loci.streaming import attend as streaming
from loci.streaming import files as memory_file
from loci.streaming.frame_buffer import Bank
from loci.streaming.kv_cache import Cache, Layout, ordinary
from loci.streaming.state_cache import Carried

if TYPE_CHECKING:
    from loci.models.world import WorldModel


# Of a pass, at most: longer writes go in pieces, since what tokens see of each other is a square.
TOKENS = 8192


@dataclass(frozen=True, eq=False)
class Reading:
    """What the chunk at `poses` (relative to each stream's first frame) may see of the past.

    picked: frames that go beside it, of a joint memory. It holds until its streams are next
    written, reset or restored; `stamps` tell.
    """

    streams: list[int]
    stamps: list[object]
    poses: Tensor
    coords: Coords
    text: Text | None
    views: list[streaming.View]
    picked: Frames | None


class Session:
    """Memory of `batch` streams of one model. Streams may have different lengths.

    capacity: frames that fit before the buffers grow, by doubling (default: one and a chunk).
    gradients: writes and reads keep the graph, as far as autograd is on, until all streams are
    reset. They do not by default: a stream has no end, and its graph would have none either.
    actions: places for so many executed actions between two frames, which a `Policy` fills.
    """

    @ordinary()
    def __init__(
        self, model: WorldModel, batch: int = 1, capacity: int | None = None,
        gradients: bool = False, actions: int = 0,
    ):
        if batch < 1:
            raise LociError(f"a session of {batch} streams; use 1 or more")
        self.model = model
        self.batch = batch
        self.gradients = gradients
        memory, dit, weight = model.config.memory, model.config.dit, model.gist_bank
        self.device, self.dtype = weight.device, weight.dtype
        self.rule = memory.rule()
        layout = Layout(memory.plan(), model.tokens, memory.gists, actions)
        chunk = model.config.chunk
        capacity = 1 + chunk if capacity is None else capacity
        self.cache = Cache(
            layout, dit.num_layers, batch, dit.num_heads, dit.head_dim,
            layout.room(capacity) + self._scratch(chunk), self.device, self.dtype,
        )
        self.carried = Carried(model.carries, batch)
        self.bank = Bank(
            batch, capacity, model.latent_shape, poses=memory.joint or memory.retrieves > 0,
            latents=memory.joint, device=self.device, dtype=self.dtype,
        )
        self.reference = torch.eye(4, dtype=torch.float64).repeat(batch, 1, 1)
        self.text: Text | None = None
        self._stamps = [object() for _ in range(batch)]
        self._broken: set[int] = set()  # streams whose last write was cut short

    def init(self, text: Tensor | None = None, lengths: Sequence[int] | None = None) -> Session:
        """Start all streams over, with text embeddings (B, S, text_dim) of the given lengths.

        Their keys and values are computed here, once for the whole stream; lengths default to S.
        Raises LociError for other rows, and for a model without text. Without text the model runs
        without its cross-attention.
        """
        encoded = None
        if text is not None:
            if text.dim() != 3 or len(text) != self.batch:
                raise LociError(
                    f"text of shape {tuple(text.shape)} for {self.batch} streams; "
                    "give embeddings (B, S, text_dim), a row a stream"
                )
            lengths = [text.shape[1]] * self.batch if lengths is None else lengths
            with self._graph():
                encoded = self.model.dit.encode_text(text.to(self.device, self.dtype), lengths)
        self.reset()
        self.text = encoded
        return self

    @property
    def lengths(self) -> list[int]:
        """Frames written to each stream."""
        return list(self.cache.written)

    def write(self, latents: Tensor, poses: Tensor, streams: Sequence[int] | None = None) -> None:
        """Commit frames: latents (B, T, C, h, w) at camera-to-world poses (B, T, 4, 4).

        `streams` names the streams that the rows belong to (default: all). Poses are absolute, in
        one world frame a stream; they enter the model relative to the stream's first frame.
        Raises LociError, with nothing changed, for rows, shapes, poses or latents that are not
        what they should be. A pass that is itself cut short (out of memory, Ctrl-C) leaves these
        streams half-written: they have to be reset, or a snapshot restored.
        """
        self._check_latents(latents)
        names = self._names(streams, len(latents))
        self._check_whole(names)
        poses = checked_poses(poses, latents.shape[:2])
        latents = latents.to(self.device, self.dtype)
        if not bool(torch.isfinite(latents).all()):
            raise LociError("a latent holds NaN or infinity; encode or generate the frame again")
        count = latents.shape[1]
        before = torch.tensor([self.cache.written[name] for name in names])
        new = before == 0
        reference = torch.where(new[:, None, None], poses[:, 0], self.reference[names])
        relative = relative_to(reference, poses)
        self._reserve(int(before.max()) + count, self.model.config.chunk)
        self._renew(names)
        self._broken.update(names)
        with self._graph():
            self.bank.put(names, before.tolist(), relative, latents)
            frames = max(1, TOKENS // (self.model.tokens + self.model.config.memory.gists))
            pieces = zip(latents.split(frames, 1), relative.split(frames, 1), strict=True)
            for seen, where in pieces:
                if self.model.writes:
                    self._pass(names, seen, where.to(self.device))
                for name in names:
                    self.cache.written[name] += seen.shape[1]
        self.reference[names] = reference
        self._broken.difference_update(names)

    def _pass(self, names: list[int], latents: Tensor, poses: Tensor) -> None:
        """Send clean frames through the network, and keep what they leave."""
        count, cache = latents.shape[1], self.cache
        coords, groups = self.model.clean_coords(torch.arange(count)), streaming.group(cache, names)
        take = streaming.step if count == 1 else partial(streaming.prefill, count=count)
        before = torch.tensor([cache.written[name] for name in names])
        segment = self.model.clean_segment(
            latents, poses, coords.later(before[:, None]).to(self.device)
        )
        jobs = [take(cache, self.rule, g, coords.later(g.written)) for g in groups]
        recall, after = self.carried.writing(names, count)
        self.model.dit.run(
            [segment], streaming.attend(groups, jobs), self._text(names), recall
        )
        self.carried.commit(names, after)

    def read(self, poses: Tensor, streams: Sequence[int] | None = None) -> Reading:
        """What a chunk at poses (B, n, 4, 4) may see of the past. Changes nothing.

        Raises LociError for bad poses and for a stream that has seen no frame yet.
        """
        poses = checked_poses(poses, poses.shape[:2])
        names, config = self._names(streams, len(poses)), self.model.config
        self._check_whole(names)
        span, written = poses.shape[1], [self.cache.written[name] for name in names]
        if not all(written):
            raise LociError("nothing to continue from: write a first frame before generating")
        self._reserve(max(written), span)
        relative = relative_to(self.reference[names], poses)
        coords = self.model.chunk_coords(torch.zeros(1, dtype=torch.long), span)
        with self._graph():
            views = [
                streaming.look(self.cache, self.rule, g, self._retrieve(g, coords, relative))
                for g in streaming.group(self.cache, names)
            ]
            picked = None
            if config.memory.joint:
                picked = self.bank.beside(config.memory, config.camera, names, written, relative)
        return Reading(
            names, self.stamps(names), relative.to(self.device),
            coords.later(torch.tensor(written)[:, None]).to(self.device), self._text(names), views,
            picked,
        )

    def denoise(self, reading: Reading, x: Tensor, time: float | Tensor) -> Tensor:
        """The network's output for a noisy chunk x (B, n, C, h, w) at a time in 0..1, one or (B,).

        Any number of calls leaves the memory bitwise unchanged. Raises LociError for a reading
        that is out of date.
        """
        self._check_latents(x)
        if x.shape[:2] != reading.poses.shape[:2]:
            raise LociError(
                f"a chunk of {tuple(x.shape[:2])} rows and frames for a reading of "
                f"{tuple(reading.poses.shape[:2])}; read the poses of this chunk"
            )
        self.check(reading.streams, reading.stamps)
        levels = times(time, len(x), self.device)
        with self._graph():
            segment = self.model.chunk_segment(
                x.to(self.device, self.dtype)[:, None], reading.poses[:, None], reading.coords,
                levels[:, None], reading.picked,
            )
            jobs = [streaming.denoise(self.cache, view) for view in reading.views]
            attend = streaming.attend([view.group for view in reading.views], jobs)
            recall = self.carried.reading(reading.streams)
            tokens = self.model.dit.run([segment], attend, reading.text, recall)[0]
            return self.model.head(tokens, levels[:, None], x.shape[1])[:, 0].to(x.dtype)

    @torch.no_grad()
    def generate(
        self, poses: Tensor, noise: Tensor, steps: int | None = None,
        streams: Sequence[int] | None = None,
    ) -> Tensor:
        """A finished chunk (B, n, C, h, w) at poses (B, n, 4, 4) from noise. Commits nothing.

        steps: Euler steps (default: the model's).
        """
        config = self.model.config
        predict = partial(self.denoise, self.read(poses, streams))
        steps = config.steps if steps is None else steps
        return config.flow.euler(predict, noise.to(self.device), steps)

    def fill(self, frames: int) -> Session:
        """Stand as if `frames` frames had been written to every stream, in no time: true slots and
        counts, keys and values of noise, carried states as they are. For measuring costs.

        Raises LociError for streams that hold something, and for a memory of poses or actions.
        """
        memory = self.model.config.memory
        if any(self.lengths) or memory.joint or memory.retrieves or self.cache.layout.actions:
            raise LociError(
                "noise can stand in for the whole past of frames alone, without poses and actions; "
                "write frames, or fill a fresh session of another row"
            )
        self._reserve(frames, self.model.config.chunk)
        self.cache.fill(self.model.clean_coords(torch.arange(1)), frames)
        self._renew(range(self.batch))
        return self

    def stamps(self, names: Sequence[int]) -> list[object]:
        """Marks of what streams hold now, for `check`."""
        return [self._stamps[name] for name in names]

    def check(self, names: Sequence[int], stamps: Sequence[object]) -> None:
        """LociError for a reading of streams that have changed since they had these marks."""
        for name, stamp in zip(names, stamps, strict=True):
            if name >= self.batch or stamp is not self._stamps[name]:
                raise LociError(
                    f"stream {name} was written, reset or restored after this reading, or belongs "
                    "to another session; read again"
                )

    def snapshot(self) -> dict[str, Tensor]:
        """The whole memory as a plain tree of tensors, copied."""
        self._check_whole(range(self.batch))
        tree = self.cache.committed() | self.carried.snapshot()
        tree |= self.bank.snapshot(max(self.cache.written))
        tree["reference"] = self.reference.clone()
        return tree if self.text is None else tree | self.text.tree("text")

    def restore(self, tree: Mapping[str, Tensor]) -> Session:
        """Go back to a snapshot. LociError, and nothing changed, if it is not one of this model
        and batch."""
        if "reference" not in tree:
            raise LociError("this is no snapshot of a session; give what `snapshot` returned")
        self.cache.check(tree)
        self.carried.check(tree)
        self.bank.check(tree, int(tree["written"].max()))
        self.cache.restore(tree)
        self.carried.restore(tree)
        self.bank.restore(tree)
        self._renew(range(self.batch))
        self._broken.clear()
        self.reference[:] = tree["reference"]
        self.text = Text.from_tree(tree, "text", self.device)
        return self

    def fork(self, capacity: int | None = None) -> Session:
        """An independent session with the same past; capacity as for a new one."""
        actions = self.cache.layout.actions
        fork = Session(self.model, self.batch, capacity, self.gradients, actions)
        return fork.restore(self.snapshot())

    def reset(self, streams: Sequence[int] | None = None) -> None:
        """Empty streams (default: all). Their text stays: `init` starts over with another."""
        names = range(self.batch) if streams is None else self._names(streams, len(streams))
        self._renew(names)
        for name in names:
            self.cache.forget(name)
            self.carried.forget(name)
            self.bank.forget(name)
            self.reference[name] = torch.eye(4, dtype=torch.float64)
        self._broken.difference_update(names)
        if not any(self.cache.written):
            self.carried.leave_graph()
            self.bank.leave_graph()

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file, whole or not at all."""
        memory_file.save(path, self.model, self.snapshot())

    @classmethod
    def load(cls, model: WorldModel, path: str | Path) -> Session:
        """Continue from a saved memory.

        Raises LociError for a damaged file, one of another version or of another model.
        """
        tree = memory_file.load(path, model)
        return cls(model, len(tree["written"])).restore(tree)

    def tokens(self, stream: int = 0) -> int:
        """Tokens held for a stream; a raw frame counts as those that it will become."""
        raw = self.cache.written[stream] if self.model.config.memory.joint else 0
        return self.cache.tokens(stream) + raw * self.model.tokens

    def bytes(self, stream: int = 0) -> int:
        """Bytes of keys and values, carried states and raw frames held for a stream."""
        raw = self.bank.bytes(self.cache.written[stream])
        return self.cache.bytes(stream) + self.carried.bytes() + raw

    def _graph(self) -> torch.set_grad_enabled:
        """Autograd as the caller has it where this session keeps gradients, off otherwise."""
        return torch.set_grad_enabled(self.gradients and torch.is_grad_enabled())

    def _names(self, streams: Sequence[int] | None, rows: int) -> list[int]:
        names = [int(name) for name in (range(self.batch) if streams is None else streams)]
        if not names or len(names) != rows or len(set(names)) != len(names):
            raise LociError(
                f"{rows} rows for {len(names)} streams; give each stream exactly one row"
            )
        if min(names) < 0 or max(names) >= self.batch:
            raise LociError(f"streams {names} of a session that has 0 to {self.batch - 1}")
        return names

    def _check_whole(self, names: Sequence[int]) -> None:
        if self._broken.intersection(names):
            raise LociError("a write to these streams was cut short and left them half-written; "
                            "reset them, or restore a snapshot")

    def _check_latents(self, latents: Tensor) -> None:
        if latents.dim() != 5 or latents.shape[2:] != self.model.latent_shape:
            raise LociError(
                f"latents of shape {tuple(latents.shape)}; this model wants (B, T, *"
                f"{self.model.latent_shape}), from its own codec"
            )

    def _retrieve(self, group: streaming.Group, coords: Coords, poses: Tensor) -> Coords:
        """The chunk's coordinates in a group's streams, knowing which frames are retrieved.

        The poses are the relative ones that training sees too: borderline overlaps then fall on
        the same side in both.
        """
        coords, memory = coords.later(group.written), self.model.config.memory
        if memory.joint or not memory.retrieves:
            return coords
        past, ahead = self.bank.poses[group.streams, : group.written], poses[group.rows]
        picks = memory.select(past, ahead, self.model.config.camera)
        if picks is None:
            return coords
        table = torch.zeros(len(past), 1, group.written, dtype=torch.bool)
        return coords.with_selected(table.scatter_(2, picks[:, None], True))

    def _reserve(self, frames: int, span: int) -> None:
        """Room for `frames` frames and the scratch of a chunk of `span` behind them."""
        self.cache.reserve(self.cache.layout.room(frames) + self._scratch(span))

    def _scratch(self, span: int) -> int:
        """Tokens of a chunk, and of what stands beside it."""
        rows, cols = self.model.small
        return span * self.model.tokens + self.model.config.memory.mixed * rows * cols

    def _renew(self, names: Sequence[int]) -> None:
        """From here on, readings of these streams are out of date."""
        for name in names:
            self._stamps[name] = object()

    def _text(self, names: list[int]) -> Text | None:
        if self.text is None or names == list(range(self.batch)):
            return self.text
        return self.text.rows(names)
