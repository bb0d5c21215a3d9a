"""Where chunks look: the weight that their tokens give to every block of the past.

The weights of the attention itself, computed beside it with the dense mask of the rule: a mean over
the tokens of a chunk, heads and layers. They say what was read, not what it was good for. Source:
ours.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from loci.attention.dense import QKV
from loci.errors import LociError
from loci.rules.rule import Coords, Kind
from loci.rules.spans import spread, token_spans
from loci.streaming.int8_kv import unpack
from loci.streaming.kv_cache import KVCache
from loci.streaming.policy import Policy
from loci.streaming.policy import Reading as PolicyReading
from loci.streaming.session import Reading, Session
from loci.streaming.span_table import Block
from loci.streaming.span_table import coords as block_coords

Read = TypeVar("Read", Reading, PolicyReading)


@dataclass(frozen=True)
class Attended:
    """Shares of a chunk's attention, which add up to 1: on blocks of the cache; on the frames that
    stand beside it, in their order; and on its own tokens."""

    past: Mapping[Block, float]
    beside: tuple[float, ...]
    itself: float


class Attending(Generic[Read]):
    """What the chunks of a reading attend to, recorded while they are denoised.

    `reading`: to be denoised in place of the one that was given, to the same outputs. passes: those
    through the network that count, from 0 on (None: all). Raises LociError for a reading with
    guidance, which has two chunks a stream.
    """

    def __init__(
        self, memory: Session | Policy, reading: Read, passes: Container[int] | None = None
    ):
        if isinstance(reading, Reading) and reading.guidance is not None:
            raise LociError(
                "two texts go through the network together; guide(None), and read again"
            )
        kv, lengths = memory.stream.kv, memory.lengths
        rows = [_Row(kv, name, reading.coords.shift(lengths[name]), reading, place)
                for place, name in enumerate(reading.streams)]
        self._rows, number = rows, -1

        def attend(layer: int, qkv: list[QKV]) -> list[Tensor | None]:
            nonlocal number
            number += layer == 0
            if passes is None or number in passes:
                for row in rows:
                    row.look(layer, qkv[0])
            return reading.evidence.attend(layer, qkv)

        self.reading: Read = replace(reading, evidence=replace(reading.evidence, attention=attend))

    def found(self) -> list[Attended]:
        """A row each, a mean over the passes so far. LociError where none of them has run."""
        return [row.found() for row in self._rows]


def halfway(times: Sequence[float]) -> int:
    """Of the passes at these times the one in which a chunk is about half noise: it still has to
    look for most of what it shows, and knows already what it looks for."""
    return min(range(len(times)), key=lambda number: abs(times[number] - 0.5))


def attended(session: Session, reading: Reading, x: Tensor, time: float) -> list[Attended]:
    """What the chunks x (B, n, C, h, w) of a reading attend to at a time of 0 to 1, a row each.
    Changes nothing. Raises what `Session.denoise` and `Attending` raise."""
    attending = Attending(session, reading)
    session.denoise(attending.reading, x, time)
    return attending.found()


class _Row:
    """Weights of one stream's chunk, summed up layer by layer."""

    def __init__(
        self, kv: KVCache, name: int, coords: Coords, reading: Reading | PolicyReading, place: int
    ):
        self.kv, self.name, self.place = kv, name, place
        table, asking = kv.tables[name], token_spans(coords)
        self.starts, self.sizes, frames, kinds = table.rows.unbind(1)
        self.blocks = [Block(Kind(kind), frame) for frame, kind in
                       zip(frames.tolist(), kinds.tolist(), strict=True)]
        selected = reading.evidence.selected
        asked = asking.coords
        if selected is not None:
            asked = asked.with_selected(selected[place : place + 1].cpu())
        past = kv.rule.mask(asked, block_coords(frames, kinds)).view(len(asking), -1)
        own = kv.rule.mask(asked, asked).view(len(asking), -1)
        self.asks = (coords.kind == int(Kind.NOISY)) | (coords.kind == int(Kind.ACTION))
        self.mask = torch.cat([
            spread(past, asking, self.sizes), spread(own, asking, asking.sizes)
        ], dim=1)[self.asks]
        self.beside = torch.where(self.asks, -1, coords.frame)
        self.weights = torch.zeros(self.mask.shape[1], dtype=torch.float64)
        self.layers = 0

    def look(self, layer: int, qkv: QKV) -> None:
        q, k, _ = qkv
        if q is None:
            return
        slots = torch.repeat_interleave(self.starts - self.sizes.cumsum(0) + self.sizes, self.sizes)
        slots = slots + torch.arange(len(slots)) + self.kv.pivot
        past = self.kv.keys[layer][self.name][:, slots.to(k.device)]
        past = unpack(past, k.dtype) if self.kv.int8 else past
        keys = torch.cat([past, k[self.place]], dim=1)  # (N, S, d)
        asks = self.asks.to(q.device)
        scores = q[self.place][:, asks].float() @ keys.float().mT * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~self.mask.to(q.device), -torch.inf)
        self.weights += scores.softmax(-1).double().mean((0, 1)).cpu()
        self.layers += 1

    def found(self) -> Attended:
        if not self.layers:
            raise LociError("none of the passes that count has run; denoise the reading first")
        weights, many = self.weights / self.layers, sum(self.sizes.tolist())
        sums = [part.sum().item() for part in weights[:many].split(self.sizes.tolist())]
        own = weights[many:]
        beside = [frame for frame in self.beside.unique().tolist() if frame >= 0]
        return Attended(
            dict(zip(self.blocks, sums, strict=True)),
            tuple(own[self.beside == frame].sum().item() for frame in beside),
            own[self.asks].sum().item(),
        )
