"""One rule, three ways to attend: dense reference, windowed form, FlexAttention.

The dense mask is the reference and runs anywhere. The windowed form is what training uses on a
CPU: queries go in runs (a frame with its gists; the frames denoised together) that see the same
keys, so each run gathers the runs of keys it may see and attends to them on a batch dimension,
without the rest of the sequence. FlexAttention is the same rule on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from loci.models.wan import QKV
from loci.visibility import Coords, Rule


@dataclass(frozen=True)
class Run:
    """`count` stretches of `size` tokens each, equally visible within a stretch.

    They are the tokens `offset` to `offset + size` of every one of the `count` frames (or groups)
    of `stride` tokens in segment `segment`. coords: one representative a stretch, (count,).
    """

    segment: int
    count: int
    stride: int
    offset: int
    size: int
    coords: Coords


class Dense:
    """Masked attention over the joined segments: the reference."""

    def __init__(self, rule: Rule, coords: list[Coords]):
        together = Coords.cat(coords)
        self.sizes = [len(c) for c in coords]
        mask = rule.mask(together, together)
        self.mask = mask if mask.dim() == 2 else mask[:, None]

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor]:
        q, k, v = _whole(qkv)
        return list(F.scaled_dot_product_attention(q, k, v, self.mask).split(self.sizes, dim=2))


class Flex:
    """The rule as a block mask of FlexAttention: forward and backward on a GPU."""

    def __init__(self, rule: Rule, coords: list[Coords]):
        from torch.nn.attention.flex_attention import flex_attention

        together = Coords.cat(coords)
        self.sizes = [len(c) for c in coords]
        self.mask = rule.block_mask(together, together)
        on_gpu = together.frame.device.type == "cuda"
        self.attend = torch.compile(flex_attention) if on_gpu else flex_attention

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor]:
        q, k, v = _whole(qkv)
        return list(self.attend(q, k, v, block_mask=self.mask).split(self.sizes, dim=2))


@dataclass(frozen=True)
class _Source:
    """Which key stretches each query stretch gathers: `index` (B or 1, U, n), or None when each
    sees exactly its own; `valid`, of that shape, tells real entries from filling."""

    keys: Run
    index: Tensor | None
    valid: Tensor


class Windowed:
    """Each run of queries attends to the stretches that it may see, on a batch dimension."""

    def __init__(self, rule: Rule, queries: list[Run], keys: list[Run], streams: int):
        """queries: how each segment splits into stretches of `stride` tokens that see the same
        keys; keys: all runs of keys there are; streams: B."""
        self.streams = streams
        self.plans = [
            (run.count, [s for key in keys if (s := _source(rule, run, key)) is not None])
            for run in queries
        ]
        self.bias = [self._bias(sources) for _, sources in self.plans]

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor | None]:
        seen: list[Tensor | None] = []
        for (units, sources), bias, (q, _, _) in zip(self.plans, self.bias, qkv, strict=True):
            if q is None:
                seen.append(None)
                continue
            k = _join([_gather(qkv[s.keys.segment][1], s, units) for s in sources])
            v = _join([_gather(qkv[s.keys.segment][2], s, units) for s in sources])
            batch, heads, length, width = q.shape
            query = q.transpose(1, 2).reshape(batch * units, length // units, heads, width)
            out = F.scaled_dot_product_attention(
                query.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias
            )
            out = out.transpose(1, 2).reshape(batch, length, heads, width)
            seen.append(out.transpose(1, 2))
        return seen

    def _bias(self, sources: list[_Source]) -> Tensor | None:
        """(B * U, 1, 1, keys) booleans, or None where every gathered key is real."""
        if all(source.valid.all() for source in sources):
            return None
        columns = [
            source.valid.repeat_interleave(source.keys.size, dim=-1).expand(self.streams, -1, -1)
            for source in sources
        ]
        return torch.cat(columns, dim=-1).flatten(0, 1)[:, None, None]


def _source(rule: Rule, queries: Run, keys: Run) -> _Source | None:
    table = rule.mask(queries.coords, keys.coords)
    table = table[None] if table.dim() == 2 else table  # (B or 1, U, stretches)
    most = int(table.sum(-1).max())
    if most == 0:
        return None
    own = torch.eye(table.shape[1], table.shape[2], dtype=torch.bool, device=table.device)
    if table.shape[1] == table.shape[2] and bool((table == own).all()):
        return _Source(keys, None, torch.ones_like(table[..., :1]))
    # True entries first, in order; what is left over points at stretch 0 and is masked.
    order = torch.argsort(table.to(torch.int8), dim=-1, descending=True, stable=True)[..., :most]
    valid = table.gather(-1, order)
    return _Source(keys, order.masked_fill(~valid, 0), valid)


def _gather(x: Tensor, source: _Source, units: int) -> Tensor:
    """Keys or values (B, N, S, d) -> what each query stretch sees, (B * U, keys, N, d)."""
    run = source.keys
    batch, heads, _, width = x.shape
    rows = x.transpose(1, 2).reshape(batch, run.count, run.stride, heads, width)
    rows = rows[:, :, run.offset : run.offset + run.size]
    if source.index is None:
        return rows.reshape(batch * units, run.size, heads, width)
    index = source.index.expand(batch, -1, -1)
    entries = index.shape[-1]
    base = torch.arange(batch, device=x.device)[:, None, None] * run.count
    flat = rows.reshape(batch * run.count, run.size * heads * width)
    picked = flat.index_select(0, (index + base).flatten())
    return picked.view(batch * units, entries * run.size, heads, width)


def _whole(qkv: list[QKV]) -> QKV:
    """All segments as one sequence. Where nobody wants to know what a segment saw, its queries
    are missing; keys stand in for them, and what they see goes unread."""
    queries = torch.cat([k if q is None else q for q, k, _ in qkv], dim=2)
    return queries, torch.cat([k for _, k, _ in qkv], dim=2), torch.cat([v for *_, v in qkv], dim=2)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
