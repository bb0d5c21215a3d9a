"""The key-value cache: keys and values of what the rule may still show.

One preallocated buffer a layer, heads before sequence: whole frames to the left of a pivot, gists
and executed actions to the right of it (`span_table.py`), and behind them the scratch, which tokens
that are being denoised use: it belongs to nobody, and nothing that counts is ever there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from loci.attention.dense import QKV, Dense
from loci.attention.flex import Flex
from loci.attention.forms import executor
from loci.attention.gather import Gather
from loci.errors import LociError
from loci.memory.stores import Episode, Evidence, Query, Store, Tree, Write
from loci.rules.retention import Retention
from loci.rules.rule import WRITTEN, Kind, Rule
from loci.rules.spans import TokenSpans, token_spans
from loci.streaming.int8_kv import pack, packed_width
from loci.streaming.kv_view import (
    CachedAttention,
    KVView,
    Rows,
    look,
    see_each_other,
    side_by_side,
)
from loci.streaming.slots import Slots
from loci.streaming.span_table import LEFT, Block, SpanTable

# Buffers are made and renewed under this, whatever the caller's mode is: a stream begun in
# inference mode can go on outside it, and a graph that somebody else keeps is never cut.
ordinary = partial(torch.inference_mode, mode=False)


@dataclass(frozen=True)
class KVShape:
    """Of a transformer's keys and values, and of the tokens that a stream keeps: how many of each
    kind a block has."""

    layers: int
    heads: int
    head_dim: int
    sizes: Mapping[Kind, int]

    @property
    def written(self) -> list[Kind]:
        """Kinds of tokens of a frame that is being written."""
        return [kind for kind in WRITTEN if self.sizes.get(kind, 0)]


class KVCache(Store):
    """Keys and values of `batch` streams.

    keys, values: for each layer (B, N, S, d), of which slot `pivot` is where counting begins.
    tables: for each stream, which blocks it keeps and where; always on the CPU. Streams of one
    length share a table. frames: as many fit before the buffers grow, by doubling. scratch: slots
    for tokens that are being denoised. int8: rows are stored in int8, see `int8_kv.py`.
    """

    name = "kv"

    @ordinary()
    def __init__(
        self, rule: Rule, retention: Retention, shape: KVShape, batch: int, frames: int = 0,
        scratch: int = 0, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
        int8: bool = False,
    ):
        self.rule, self.retention, self.shape, self.batch = rule, retention, shape, batch
        self.dtype, self.int8 = dtype, int8
        self._width = packed_width(shape.head_dim) if int8 else shape.head_dim
        self.tables = [SpanTable(retention, shape.sizes)] * batch
        left, right = (
            retention.peak({k: n for k, n in shape.sizes.items() if (k in LEFT) == whole}, frames)
            for whole in (True, False)
        )
        self.pivot = left
        buffer = (batch, shape.heads, left + right + scratch, self._width)
        stored = torch.int8 if int8 else dtype
        self.keys, self.values = (
            [torch.zeros(buffer, device=device, dtype=stored) for _ in range(shape.layers)]
            for _ in range(2)
        )
        self._scratch = scratch
        self._keeps = any(retention.growth(kind) != "never" for kind in retention.kinds)
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        return self.keys[0].device

    def write(self, write: Write, found: Evidence) -> Evidence:
        """The pass commits layer by layer. A new frame sees what stays beside it; where it sums up
        what it lets go, and where several come at once, they see the past as it was, and each
        other."""
        if write.frames is None:
            return self._write_actions(write, found)
        old, new = self._advanced(write.streams, len(write.frames))
        if not self._keeps:
            self._take(write.streams, new)
            return found
        spans, streams = token_spans(write.coords), side_by_side(write.streams)
        self._reserve([*old, *new], 0)
        # What has to be copied is copied before the pass: too early for the frame's own tokens.
        stays = len(write.frames) == 1 and self._sees_what_stays(old, new)
        place = look(self, write.streams, new, write.coords, write.written, copies=False) \
            if stays else None
        settled, view = place is not None, place or self._look(write.streams, old, write)
        puts, moves = self._plan(write, old, new, spans)
        attend = CachedAttention(self, view)
        self._take(write.streams, new)

        def run(layer: int, qkv: list[QKV]) -> list[Tensor | None]:
            ((_, k, v),) = qkv
            if settled:
                self._commit(layer, streams, moves, puts, k, v)
            seen = attend(layer, qkv)
            if not settled:
                self._commit(layer, streams, moves, puts, k, v)
            return seen

        return replace(found, attention=run)

    def _write_actions(self, write: Write, found: Evidence) -> Evidence:
        """Actions that were carried out after the last frame: they attend, then stand behind all
        that is in use, where they count once the next frame is written."""
        tables, size = [self.tables[stream] for stream in write.streams], len(write.coords)
        self._reserve(tables, size)
        attend = CachedAttention(self, self._look(write.streams, tables, write))
        streams = side_by_side(write.streams)
        behind = max(table.high for table in tables) + size
        puts = self._slots([[(0, table.high, size)] for table in tables], behind)

        def run(layer: int, qkv: list[QKV]) -> list[Tensor | None]:
            ((_, k, v),) = qkv
            seen = attend(layer, qkv)
            self._commit(layer, streams, None, puts, k, v)
            return seen

        return replace(found, attention=run)

    def query(self, query: Query, found: Evidence) -> Evidence:
        """Chunks see what the rule shows of the past, and their own tokens; they leave no trace."""
        tables = [self.tables[stream] for stream in query.streams]
        self._reserve(tables, len(query.coords))
        view = self._look(query.streams, tables, query, found.selected)
        return replace(found, attention=CachedAttention(self, view))

    def packed(self, episode: Episode, found: Evidence) -> Evidence:
        """All tokens of an episode side by side, under the rule."""
        parts = [] if episode.coords is None else [episode.coords]
        parts += [chunks.coords for chunks in episode.chunks]
        parts = [part.with_selected(found.selected) for part in parts]
        kind = executor(episode.form, self._device)
        if kind == "dense":
            return replace(found, attention=Dense(self.rule, parts, self._device))
        if kind == "flex":
            return replace(found, attention=Flex(self.rule, parts, self._device))
        streams, frames = episode.frames.latents.shape[:2]
        groups = [len(chunks.before) for chunks in episode.chunks]
        if episode.coords is not None:
            groups.insert(0, frames)
        return replace(found, attention=Gather(self.rule, parts, groups, streams, self._device))

    def _look(
        self, streams: Sequence[int], tables: Sequence[SpanTable], asked: Write | Query,
        selected: Tensor | None = None,
    ) -> KVView:
        """What tokens see of these tables, and of each other, which are in none."""
        scratch = isinstance(asked, Query)
        view = look(self, streams, tables, asked.coords, asked.written, selected, scratch)
        assert view is not None
        return see_each_other(
            view, self.rule, asked.coords, asked.written, self.device, scratch
        )

    def _advanced(
        self, streams: Sequence[int], frames: int
    ) -> tuple[list[SpanTable], list[SpanTable]]:
        """The tables of streams before and after so many more frames."""
        known = {table.written: table for table in self.tables}
        before: dict[SpanTable, SpanTable] = {}
        after: dict[SpanTable, SpanTable] = {}
        for table in dict.fromkeys(self.tables[stream] for stream in streams):
            before[table] = table.arrive()
            after[table] = known.get(table.written + frames) or before[table].copy()
            if after[table].written == table.written:
                after[table].advance(frames)
        tables = [self.tables[stream] for stream in streams]
        return [before[table] for table in tables], [after[table] for table in tables]

    def _take(self, streams: Sequence[int], tables: Sequence[SpanTable]) -> None:
        for stream, table in zip(streams, tables, strict=True):
            self.tables[stream] = table

    def _sees_what_stays(self, old: Sequence[SpanTable], new: Sequence[SpanTable]) -> bool:
        """Whether a frame sees itself, and only blocks that stay beside it."""
        pairs = dict(zip(old, new, strict=True))
        return not any(
            any(self.retention.sees_off(*block) for block in before.leaving())
            or any(Block(kind, before.written) not in after.start for kind in self.shape.written)
            for before, after in pairs.items()
        )

    def _plan(
        self, write: Write, old: Sequence[SpanTable], new: Sequence[SpanTable], spans: TokenSpans
    ) -> tuple[Slots | None, Slots | None]:
        """Where new tokens go, and blocks that stay: (first token or slot, first slot, count)."""
        pairs = dict.fromkeys(zip(old, new, strict=True))
        parts = list(zip(
            spans.coords.frame.tolist(), spans.coords.kind.tolist(), spans.starts.tolist(),
            spans.sizes.tolist(), strict=True,
        ))
        puts, moves = {}, {}
        for before, after in pairs:
            puts[before, after] = [
                (start, after.start[block], size) for frame, kind, start, size in parts
                if (block := Block(Kind(kind), before.written + frame)) in after.start
            ]
            moves[before, after] = [
                (at, after.start[block], after.sizes[block.kind])
                for block, at in before.start.items() if after.start.get(block, at) != at
            ]
        rows, behind = list(zip(old, new, strict=True)), max(t.high for t in (*old, *new))
        return (self._slots([puts[pair] for pair in rows], behind),
                self._slots([moves[pair] for pair in rows], behind))

    def _slots(self, rows: list[list[tuple[int, int, int]]], behind: int) -> Slots | None:
        """Runs of tokens and slots, a list for each row of a batch; what is in use ends at slot
        `behind`."""
        if not any(rows):
            return None
        if all(row == rows[0] for row in rows):
            return Slots(rows[0], None, None)
        tokens = [torch.cat([torch.arange(a, a + n) for a, _, n in row] or [_NONE]) for row in rows]
        slots = [torch.cat([torch.arange(b, b + n) for _, b, n in row] or [_NONE]) for row in rows]
        most = max(len(each) for each in slots)
        # Rows that move fewer tokens move some more, to slots that nobody reads.
        self._grow(0, behind + most)
        slots = [torch.cat([each, behind + torch.arange(len(each), most)]) for each in slots]
        tokens = [torch.cat([each, torch.zeros(most - len(each), dtype=torch.long)])
                  for each in tokens]
        return Slots([], torch.stack(tokens).to(self.device), torch.stack(slots).to(self.device))

    def _commit(
        self, layer: int, streams: Rows, moves: Slots | None, puts: Slots | None, k: Tensor,
        v: Tensor,
    ) -> None:
        """Move what stays, then put new keys and values (B, N, S, d) where they belong: in place,
        or in a copy where a gradient flows."""
        if isinstance(streams, Tensor):
            streams = streams.to(self.device)
        if self.int8:
            k, v = pack(k), pack(v)
        self._commit_one(self.keys, layer, streams, moves, puts, k)
        self._commit_one(self.values, layer, streams, moves, puts, v)

    def _commit_one(
        self, buffers: list[Tensor], layer: int, streams: Rows, moves: Slots | None,
        puts: Slots | None, new: Tensor,
    ) -> None:
        buffer = buffers[layer]
        if new.requires_grad or buffer.requires_grad:
            # Earlier passes have saved this buffer for their backward, so it must stay as it is;
            # and a write without gradients keeps those of the other slots.
            with ordinary():
                buffers[layer] = buffer.clone()
                self._apply(buffers[layer], streams, moves, puts, new)
        else:
            self._apply(buffer, streams, moves, puts, new)

    def _apply(
        self, buffer: Tensor, streams: Rows, moves: Slots | None, puts: Slots | None, new: Tensor
    ) -> None:
        if moves is not None:
            moves.put(buffer, streams, moves.take(buffer, streams, self.pivot), self.pivot)
        if puts is not None:
            puts.put(buffer, streams, puts.take(new, slice(None), 0), self.pivot)

    def _reserve(self, tables: Sequence[SpanTable], own: int) -> None:
        """Room for what these tables hold, and for so many tokens behind it."""
        self._grow(-min(table.low for table in tables), max(table.high for table in tables) + own)

    @ordinary()
    def _grow(self, left: int, right: int) -> None:
        """Room for slots -left to right, at least doubling what has to grow."""
        behind = self.keys[0].shape[2] - self.pivot
        more = [0 if want <= have else max(want, 2 * have) - have
                for want, have in ((left, self.pivot), (right, behind))]
        if any(more):
            self.keys = [pad(k, (0, 0, *more)) for k in self.keys]
            self.values = [pad(v, (0, 0, *more)) for v in self.values]
            self.pivot += more[0]

    def fill(self, frames: int) -> None:
        """Stand as if `frames` frames had been written to every stream, which are empty: tables are
        those of a true history, keys and values are noise. For measuring costs, which do not depend
        on what keys and values hold."""
        table = self.table(frames)
        self._reserve([table], self._scratch)
        self.tables = [table] * self.batch
        low, high = self.pivot + table.low, self.pivot + table.high
        for buffer in (*self.keys, *self.values):
            shape = *buffer.shape[:2], high - low, self.shape.head_dim
            noise = torch.randn(shape, device=buffer.device, dtype=self.dtype)
            buffer[:, :, low:high] = pack(noise) if self.int8 else noise

    def table(self, frames: int) -> SpanTable:
        """The table of streams that have seen so many frames."""
        known = {table.written: table for table in self.tables}
        if frames in known:
            return known[frames]
        table = SpanTable(self.retention, self.shape.sizes)
        table.advance(frames)
        return table

    def reset(self, streams: Sequence[int]) -> None:
        empty = self.table(0)
        for stream in streams:
            self.tables[stream] = empty

    @ordinary()
    def leave_graph(self) -> None:
        self.keys = [torch.zeros_like(k) if k.requires_grad else k for k in self.keys]
        self.values = [torch.zeros_like(v) if v.requires_grad else v for v in self.values]

    def snapshot(self, streams: Sequence[int], written: Sequence[int]) -> Tree:
        """keys.LAYER and values.LAYER (B, N, slots, d): what is in use of these streams, the left
        of the pivot first; what one of them does not use is zero."""
        tables, rows = [self.tables[stream] for stream in streams], self._rows(streams)
        low, high = self._extent(tables)
        slots = torch.arange(low, high)
        free = torch.stack([(slots < t.low) | (slots >= t.high) for t in tables])
        free = free[:, None, :, None].to(self.device)
        part = slice(self.pivot + low, self.pivot + high)
        return {
            f"{name}.{layer}": buffer[rows, :, part].masked_fill(free, 0)
            for name, buffers in (("keys", self.keys), ("values", self.values))
            for layer, buffer in enumerate(buffers)
        }

    def check(self, tree: Mapping[str, Tensor], written: Sequence[int]) -> None:
        layers, heads, width = self.shape.layers, self.shape.heads, self._width
        low, high = self._extent([self.table(frames) for frames in set(written)])
        shape = (len(written), heads, high - low, width)
        names = {f"{name}.{layer}" for name in ("keys", "values") for layer in range(layers)}
        there = {name: tuple(value.shape) for name, value in tree.items()}
        if there != dict.fromkeys(names, shape):
            found = sorted({*there.values()})
            raise LociError(
                f"the memory of another model or row: keys and values of {len(there) // 2} layers, "
                f"{found}, and {layers} of {shape} are wanted; restore it where it was taken"
            )

    def restore(
        self, tree: Mapping[str, Tensor], streams: Sequence[int], written: Sequence[int]
    ) -> None:
        if len(streams) == self.batch:
            self.leave_graph()
        self.reset(streams)
        tables = [self.table(frames) for frames in written]
        self._take(streams, tables)
        low, high = self._extent(tables)
        self._reserve(self.tables, self._scratch)
        rows, slots = self._rows(streams), Slots([(0, low, high - low)], None, None)
        for name, buffers in (("keys", self.keys), ("values", self.values)):
            for layer in range(self.shape.layers):
                new = tree[f"{name}.{layer}"].to(self.device)
                self._commit_one(buffers, layer, rows, None, slots, new)

    def _rows(self, streams: Sequence[int]) -> Rows:
        """Streams as an index of the buffers."""
        rows = side_by_side(streams)
        return rows if isinstance(rows, slice) else rows.to(self.device)

    @staticmethod
    def _extent(tables: Sequence[SpanTable]) -> tuple[int, int]:
        """The slots that some of these tables use."""
        return min(table.low for table in tables), max(table.high for table in tables)

    def tokens(self, stream: int) -> int:
        """Tokens kept for a stream."""
        table = self.tables[stream]
        return table.high - table.low

    def bytes(self, stream: int) -> int:
        """Bytes of keys and values kept for a stream, over all layers."""
        k = self.keys[0]
        return 2 * len(self.keys) * self.tokens(stream) * k.shape[1] * k.shape[3] * k.element_size()


_NONE = torch.zeros(0, dtype=torch.long)
