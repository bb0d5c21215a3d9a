"""The streaming executor: a batch of streams, each with its own memory.

`write` commits: one clean pass over frames that were really seen or are finally generated; in
each layer their keys and values go where the cache's plan says. `read` asks the rule what a chunk
may see; `denoise` runs the network against that and never changes the memory. `packed.py` executes
the same model under the same rule in one pass; conformance tests hold the two to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from loci.cache import Cache, Layout
from loci.errors import LociError
from loci.files import atomic_write
from loci.models.camera import relative_to
from loci.models.wan import QKV, Text
from loci.visibility import Coords, compile_plan

if TYPE_CHECKING:
    from loci.models.world import WorldModel

FORMAT, VERSION = "loci-session", "1"


@dataclass(frozen=True)
class Reading:
    """What the chunk at `poses` may see: for each group of streams its keys and values a layer,
    the slots [start, stop) of them that are visible, and a mask where the rule needs one."""

    streams: list[int]
    poses: Tensor
    coords: Coords
    parts: list[_Part]


@dataclass(frozen=True)
class _Part:
    rows: slice
    keys: list[Tensor]
    values: list[Tensor]
    start: int
    stop: int
    mask: Tensor | None


class Session:
    """Memory of `batch` streams of one model. Streams may have different lengths."""

    def __init__(self, model: WorldModel, batch: int = 1, capacity: int = 64):
        self.model = model
        self.batch = batch
        memory, dit = model.config.memory, model.config.dit
        self.rule = memory.rule()
        layout = Layout(compile_plan(self.rule), model.tokens, memory.gists)
        weight = model.gist_bank
        slots = layout.end(capacity) + model.config.chunk * model.tokens
        self.cache = Cache(
            layout, dit.num_layers, batch, dit.num_heads, dit.head_dim, slots,
            weight.device, weight.dtype,
        )
        self.reference = torch.eye(4, dtype=torch.float64).repeat(batch, 1, 1)
        # Where every written frame stood: only mechanisms that retrieve need to know.
        kept = capacity if memory.retrieves else 0
        self.poses = torch.zeros(batch, kept, 4, 4, dtype=torch.float64)
        self.text: Text | None = None

    def init(self, text: Tensor | None = None, lengths: Sequence[int] = ()) -> Session:
        """Start all streams over, with text embeddings (B, S, text_dim) of the given lengths.

        Their keys and values are computed here, once for the whole stream.
        """
        self.reset()
        self.text = None if text is None else self.model.dit.encode_text(text, lengths)
        return self

    @property
    def lengths(self) -> list[int]:
        """Frames written to each stream."""
        return list(self.cache.written)

    def write(self, latents: Tensor, poses: Tensor, streams: Sequence[int] | None = None) -> None:
        """Commit frames: latents (B, T, C, h, w) at camera-to-world poses (B, T, 4, 4).

        `streams` names the streams that the rows belong to (default: all). Poses are absolute, in
        one world frame a stream; they enter the model relative to the stream's first frame.
        """
        names = self._names(streams, latents, poses)
        poses = poses.to("cpu", torch.float64)
        count = latents.shape[1]
        for row, name in enumerate(names):
            if not self.cache.written[name]:
                self.reference[name] = poses[row, 0]
        self._remember(names, poses)
        before = [self.cache.written[name] for name in names]
        self.cache.reserve(self._room(max(before) + count))

        frames = torch.arange(count)
        coords = self.model.clean_coords(frames)
        shifted = coords.later(torch.tensor(before)[:, None])
        segment = self.model.clean_segment(
            latents, relative_to(self.reference[names], poses).to(latents.device),
            shifted, silent=True,
        )
        groups = self._groups(names)
        attend = self._step if count == 1 else self._prefill
        jobs = [attend(rows, inside, coords.later(n), n, count) for rows, inside, n in groups]
        self.model.dit.run([segment], self._spread(groups, jobs, commit=True), self._text(names))
        for name in names:
            self.cache.written[name] += count

    def read(self, poses: Tensor, streams: Sequence[int] | None = None) -> Reading:
        """What a chunk at poses (B, n, 4, 4) may see of the past. Changes nothing."""
        names = self._names(streams, poses, poses)
        poses = poses.to("cpu", torch.float64)
        self.cache.reserve(self._room(max(self.cache.written[name] for name in names)))
        coords = self.model.noisy_coords(
            torch.arange(poses.shape[1]), torch.full((poses.shape[1],), -1),
            torch.zeros(poses.shape[1], dtype=torch.long),
        )
        parts = []
        for rows, inside, written in self._groups(names):
            if not written:
                raise LociError("nothing to continue from: write a first frame before generating")
            parts.append(self._look(rows, coords.later(written), written, poses[inside]))
        before = torch.tensor([self.cache.written[name] for name in names])[:, None]
        relative = relative_to(self.reference[names], poses)
        return Reading(names, relative, coords.later(before), parts)

    def denoise(self, reading: Reading, x: Tensor, time: float | Tensor) -> Tensor:
        """The network's output for a noisy chunk x (B, n, C, h, w) at a time in 0..1.

        Any number of calls leaves the memory bitwise unchanged.
        """
        batch, span = x.shape[:2]
        times = torch.as_tensor(time, dtype=torch.float32, device=x.device).expand(batch)
        segment = self.model.noisy_segment(
            x, reading.poses.to(x.device), reading.coords,
            times[:, None].expand(batch, span), span,
        )
        groups = [(p.rows, slice(i, i + 1) if len(reading.parts) > 1 else slice(None), 0)
                  for i, p in enumerate(reading.parts)]
        jobs = [self._scratch(part) for part in reading.parts]
        tokens = self.model.dit.run(
            [segment], self._spread(groups, jobs, commit=False), self._text(reading.streams)
        )
        return self.model.head(tokens[0], segment.time)

    @torch.no_grad()
    def generate(
        self, poses: Tensor, noise: Tensor, steps: int | None = None,
        streams: Sequence[int] | None = None,
    ) -> Tensor:
        """A finished chunk (B, n, C, h, w) at poses (B, n, 4, 4) from noise. Commits nothing."""
        reading = self.read(poses, streams)
        flow = self.model.config.flow
        return flow.euler(
            lambda x, t: self.denoise(reading, x, t), noise, steps or self.model.config.steps
        )

    def snapshot(self) -> dict[str, Tensor]:
        """The whole memory as a plain tree of tensors, copied."""
        kept = max(self.cache.written) if self.poses.shape[1] else 0
        tree = self.cache.committed()
        tree |= {"reference": self.reference.clone(), "poses": self.poses[:, :kept].clone()}
        if self.text is not None:
            tree["text.bias"] = self.text.bias.clone()
            for layer, (k, v) in enumerate(zip(self.text.keys, self.text.values, strict=True)):
                tree[f"text.keys.{layer}"], tree[f"text.values.{layer}"] = k.clone(), v.clone()
        return tree

    def restore(self, tree: dict[str, Tensor]) -> Session:
        """Go back to a snapshot."""
        self.cache.restore(tree)
        self.reference = tree["reference"].clone()
        kept = tree["poses"].shape[1]
        self._grow_poses(kept)
        self.poses[:, :kept] = tree["poses"]
        self.text = None
        if "text.bias" in tree:
            layers = range(self.model.config.dit.num_layers)
            self.text = Text(
                [tree[f"text.keys.{i}"].clone() for i in layers],
                [tree[f"text.values.{i}"].clone() for i in layers],
                tree["text.bias"].clone(),
            )
        return self

    def fork(self) -> Session:
        """An independent session with the same past."""
        return Session(self.model, self.batch).restore(self.snapshot())

    def reset(self, streams: Sequence[int] | None = None) -> None:
        """Empty streams (default: all)."""
        for stream in range(self.batch) if streams is None else streams:
            self.cache.forget(stream)

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file, whole or not at all."""
        tree = {k: v.detach().contiguous() for k, v in self.snapshot().items()}
        notes = {"format": FORMAT, "version": VERSION, "config": self.model.config.hash()}
        atomic_write(path, lambda temporary: save_file(tree, temporary, notes))

    @classmethod
    def load(cls, model: WorldModel, path: str | Path) -> Session:
        """Continue from a saved memory.

        Raises LociError for a damaged file, one of another version or of another model.
        """
        try:
            with safe_open(path, "pt") as file:
                notes = file.metadata() or {}
                tree = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise LociError(f"cannot read memory {path}: {error}; save the session again") from None
        if notes.get("format") != FORMAT:
            raise LociError(f"{path} is not a saved memory; give a file made by Session.save")
        if notes.get("version") != VERSION:
            raise LociError(
                f"{path} is a memory of version {notes.get('version')}, this is {VERSION}; "
                "write the frames again"
            )
        if notes.get("config") != model.config.hash():
            raise LociError(
                f"{path} belongs to another model or memory row (config {notes.get('config')}, "
                f"not {model.config.hash()}); load it with that one"
            )
        return cls(model, len(tree["written"])).restore(tree)

    def tokens(self, stream: int = 0) -> int:
        """Tokens held for a stream."""
        return self.cache.tokens(stream)

    def bytes(self, stream: int = 0) -> int:
        """Bytes of keys and values held for a stream."""
        return self.cache.bytes(stream)

    # What follows is how a pass over the model meets the cache.

    def _names(self, streams: Sequence[int] | None, batch: Tensor, poses: Tensor) -> list[int]:
        names = list(range(self.batch)) if streams is None else list(streams)
        if len(names) != len(batch) or len(set(names)) != len(names):
            raise LociError(
                f"{len(batch)} rows for {len(names)} streams; give each stream exactly one row"
            )
        if poses.shape[-2:] != (4, 4) or poses.shape[:2] != batch.shape[:2]:
            raise LociError(
                f"poses of shape {tuple(poses.shape)} for frames {tuple(batch.shape[:2])}; "
                "give one 4x4 camera-to-world matrix a frame"
            )
        if not bool(torch.isfinite(poses).all()):
            raise LociError("a pose holds NaN or infinity; fix the camera path")
        return names

    def _room(self, frames: int) -> int:
        """Slots for `frames` frames and a chunk's scratch behind them."""
        return self.cache.layout.end(frames) + self.model.config.chunk * self.model.tokens

    def _groups(self, names: list[int]) -> list[tuple[slice, slice, int]]:
        """(streams in the cache, rows in the batch, frames written) of streams that go together.

        All of them where they are equally long; one by one otherwise: padding a ragged batch and
        masking it costs more than a loop over slices, and the linear layers stay batched.
        """
        written = [self.cache.written[name] for name in names]
        if names == list(range(self.batch)) and len(set(written)) == 1:
            return [(slice(None), slice(None), written[0])]
        return [
            (slice(name, name + 1), slice(i, i + 1), n)
            for i, (name, n) in enumerate(zip(names, written, strict=True))
        ]

    def _text(self, names: list[int]) -> Text | None:
        if self.text is None:
            return None
        return Text(
            [k[names] for k in self.text.keys], [v[names] for v in self.text.values],
            self.text.bias[names],
        )

    def _remember(self, names: list[int], poses: Tensor) -> None:
        if not self.model.config.memory.retrieves:
            return
        count = poses.shape[1]
        self._grow_poses(max(self.cache.written[name] for name in names) + count)
        for row, name in enumerate(names):
            n = self.cache.written[name]
            self.poses[name, n : n + count] = poses[row]

    def _grow_poses(self, frames: int) -> None:
        more = max(frames, 2 * self.poses.shape[1]) - self.poses.shape[1]
        if frames > self.poses.shape[1]:
            self.poses = F.pad(self.poses, (0, 0, 0, 0, 0, more))

    @staticmethod
    def _spread(groups, jobs, commit: bool):
        """Run each group's own attention and put the rows together again."""

        def attend(layer: int, qkv: list[QKV]) -> list[Tensor | None]:
            q, k, v = qkv[0]
            outs = [
                job(layer, None if q is None else q[inside], k[inside], v[inside])
                for (_, inside, _), job in zip(groups, jobs, strict=True)
            ]
            return [None if q is None else outs[0] if len(outs) == 1 else torch.cat(outs)]

        return attend

    def _step(self, rows: slice, inside: slice, coords: Coords, written: int, count: int):
        """One new frame: it takes its slots first, so that whoever it evicts is not seen."""
        moves = self.cache.mark(rows, coords, written)
        stop = self.cache.layout.end(written + 1)
        first = 0 if rows.start is None else rows.start
        slots = self.cache.slots[first, :stop]
        known = _slot_coords(slots)
        seen = self.rule.mask(_representatives(coords), known)
        span = _span(seen)
        if span is None:
            # Frame and gists see different things, or no single slice: ask for each token.
            mask: Tensor | None = self.rule.mask(coords, known)
            span = (0, stop)
        else:
            mask = None

        def job(layer: int, q: Tensor | None, k: Tensor, v: Tensor) -> Tensor | None:
            for which, start in moves:
                self.cache.put(layer, rows, start, k[:, :, which], v[:, :, which])
            if q is None:
                return None
            low, high = span
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            return F.scaled_dot_product_attention(
                q, keys[rows, :, low:high], values[rows, :, low:high], mask
            )

        return job

    def _prefill(self, rows: slice, inside: slice, coords: Coords, written: int, count: int):
        """Several new frames in one pass: the old slots and the new tokens under the rule."""
        stop = self.cache.layout.end(written)
        first = 0 if rows.start is None else rows.start
        old = _slot_coords(self.cache.slots[first, :stop].clone())
        mask = self.rule.mask(coords, Coords.cat([old, coords]))
        before = [(k[rows, :, :stop].clone(), v[rows, :, :stop].clone())
                  for k, v in zip(self.cache.keys, self.cache.values, strict=True)]
        moves = []
        for frame in range(written, written + count):
            moves += self.cache.mark(rows, coords, frame)

        def job(layer: int, q: Tensor | None, k: Tensor, v: Tensor) -> Tensor | None:
            for which, start in moves:
                self.cache.put(layer, rows, start, k[:, :, which], v[:, :, which])
            if q is None:
                return None
            old_k, old_v = before[layer]
            return F.scaled_dot_product_attention(
                q, torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2), mask
            )

        return job

    def _look(self, rows: slice, coords: Coords, written: int, poses: Tensor) -> _Part:
        memory, stop = self.model.config.memory, self.cache.layout.end(written)
        first = 0 if rows.start is None else rows.start
        known = _slot_coords(self.cache.slots[first, :stop])
        if memory.retrieves:
            picks = memory.select(self.poses[rows, :written], poses, self.model.config.camera)
            if picks is not None:
                table = torch.zeros(len(poses), 1, written, dtype=torch.bool)
                coords = coords.with_selected(table.scatter_(2, picks[:, None], True))
        tail = self.rule.mask(coords, coords)
        tail = tail if tail.dim() == 2 else tail[0]
        seen = self.rule.mask(_representatives(coords), known)
        span = _span(seen) if seen.dim() == 2 else None
        if span is not None and span[1] == stop:
            mask = None if bool(tail.all()) else torch.cat(
                [tail.new_ones(len(tail), span[1] - span[0]), tail], dim=1
            )
            return _Part(rows, self.cache.keys, self.cache.values, *span, mask)
        return self._collect(rows, seen, tail, len(coords))

    def _collect(self, rows: slice, seen: Tensor, tail: Tensor, fresh: int) -> _Part:
        """Visible slots that are no single slice: copied once for the chunk, not for each step."""
        seen = seen if seen.dim() == 3 else seen[None]
        some = seen.any(dim=1)  # (b or 1, S)
        most = int(some.sum(-1).max())
        order = torch.argsort(some.to(torch.int8), dim=-1, descending=True, stable=True)[:, :most]
        streams = len(self.cache.keys[0][rows])
        order = order.expand(streams, -1)

        def pick(buffer: Tensor) -> Tensor:
            index = order[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
            return F.pad(buffer[rows].gather(2, index), (0, 0, 0, fresh))

        mask = None
        every = bool((seen.all(dim=1) == some).all()) and bool((some.sum(-1) == most).all())
        if not (every and bool(tail.all())):
            groups = len(tail) // seen.shape[1]
            rows_seen = seen.expand(streams, -1, -1).gather(
                2, order[:, None].expand(-1, seen.shape[1], -1)
            )
            head = rows_seen.repeat_interleave(groups, dim=1)
            mask = torch.cat([head, tail.expand(streams, -1, -1)], dim=2)[:, None]
        return _Part(
            rows, [pick(k) for k in self.cache.keys], [pick(v) for v in self.cache.values],
            0, most, mask,
        )

    def _scratch(self, part: _Part):
        """Attention of a noisy chunk: its keys stand right behind the visible ones."""
        rows = part.rows if part.keys is self.cache.keys else slice(None)

        def job(layer: int, q: Tensor | None, k: Tensor, v: Tensor) -> Tensor | None:
            keys, values = part.keys[layer][rows], part.values[layer][rows]
            low, high = part.start, part.stop + k.shape[2]
            if k.requires_grad or keys.requires_grad:
                keys = torch.cat([keys[:, :, low : part.stop], k], dim=2)
                values = torch.cat([values[:, :, low : part.stop], v], dim=2)
            else:
                keys[:, :, part.stop : high], values[:, :, part.stop : high] = k, v
                keys, values = keys[:, :, low:high], values[:, :, low:high]
            return F.scaled_dot_product_attention(q, keys, values, part.mask)

        return job


def _slot_coords(slots: Tensor) -> Coords:
    frame, row, col, kind = slots.unbind(-1)
    return Coords(frame, row, col, kind, frame, torch.full_like(frame, -1))


def _representatives(coords: Coords) -> Coords:
    """The first token of each (frame, kind): rules do not look at places inside a frame."""
    key = torch.stack([coords.frame, coords.kind])
    change = torch.ones(len(coords), dtype=torch.bool)
    change[1:] = (key[:, 1:] != key[:, :-1]).any(0)
    return coords[change]


def _span(seen: Tensor) -> tuple[int, int] | None:
    """The one slice (start, stop) that all queries see entirely, if there is one; seen (Q, S)."""
    if not bool((seen == seen[:1]).all()):
        return None
    index = seen[0].nonzero()[:, 0]
    low, high = int(index[0]), int(index[-1]) + 1
    return (low, high) if high - low == len(index) else None
