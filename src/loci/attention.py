"""One rule, three ways to attend: dense reference, windowed form, FlexAttention.

The dense mask is the reference and runs anywhere. The windowed form is what training uses on a
CPU: queries go in runs (a frame with its gists; the frames denoised together) that see the same
keys, so each run gathers the runs of keys it may see and attends to them on a batch dimension,
without the rest of the sequence. FlexAttention is the same rule on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from loci.models.trunk import QKV
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

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor | None]:
        q, k, v = _whole(qkv)
        return [*F.scaled_dot_product_attention(q, k, v, self.mask).split(self.sizes, dim=2)]


class Flex:
    """The rule as a block mask of FlexAttention: forward and backward on a GPU."""

    def __init__(self, rule: Rule, coords: list[Coords]):
        together = Coords.cat(coords)
        self.sizes = [len(c) for c in coords]
        self.mask = rule.block_mask(together, together)
        self.attend = _flex(compiled=together.frame.device.type == "cuda")

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor | None]:
        q, k, v = _whole(qkv)
        return [*self.attend(q, k, v, block_mask=self.mask).split(self.sizes, dim=2)]


@cache
def _flex(compiled: bool) -> Callable[..., Tensor]:
    """FlexAttention, compiled once for all steps."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


# Stretches that see differently many keys go in up to so many groups, so that those early in an
# episode are not filled up to the size of the last ones.
GROUPS = 4


@dataclass(frozen=True)
class _Source:
    """What query stretches gather of one run of keys: `index` (B or 1, U, n) of stretches, None
    where each sees its own; `valid`, of that shape, tells real entries from filling."""

    keys: Run
    index: Tensor | None
    valid: Tensor


@dataclass(frozen=True)
class _Group:
    """Neighbouring query stretches `start` to `stop` of `size` tokens, and what they gather."""

    start: int
    stop: int
    size: int
    sources: list[_Source]
    mask: Tensor | None


class Windowed:
    """Each run of queries attends to the stretches that it may see, on a batch dimension."""

    def __init__(self, rule: Rule, queries: list[Run], keys: list[Run], streams: int):
        """queries: how each segment splits into stretches of `stride` tokens that see the same
        keys; keys: all runs of keys there are; streams: B."""
        self.plans = [_plan(rule, run, keys, streams) for run in queries]

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor | None]:
        return [
            None if q is None else _cat([self._group(group, q, qkv) for group in groups], dim=2)
            for groups, (q, _, _) in zip(self.plans, qkv, strict=True)
        ]

    def _group(self, group: _Group, q: Tensor, qkv: list[QKV]) -> Tensor:
        """What one group of stretches sees, (B, N, tokens of the group, d)."""
        k = _cat([_gather(qkv[s.keys.segment][1], s, group) for s in group.sources], dim=1)
        v = _cat([_gather(qkv[s.keys.segment][2], s, group) for s in group.sources], dim=1)
        batch, heads, _, width = q.shape
        asked = q[:, :, group.start * group.size : group.stop * group.size].transpose(1, 2)
        out = F.scaled_dot_product_attention(
            asked.reshape(-1, group.size, heads, width).transpose(1, 2),
            k.transpose(1, 2), v.transpose(1, 2), group.mask,
        )
        return out.transpose(1, 2).reshape(batch, -1, heads, width).transpose(1, 2)


def _plan(rule: Rule, queries: Run, keys: list[Run], streams: int) -> list[_Group]:
    """Cut the stretches of a segment into groups, and say what each gathers."""
    tables = [rule.mask(queries.coords, run.coords) for run in keys]
    tables = [t[None] if t.dim() == 2 else t for t in tables]  # (B or 1, U, stretches)
    counts = [t.sum(-1).amax(0) for t in tables]  # (U,) each
    alike = all(bool((c == c[0]).all()) for c in counts)
    width = queries.count if alike else -(-queries.count // GROUPS)
    groups = []
    for start in range(0, queries.count, width):
        stop = min(start + width, queries.count)
        sources = [
            _source(table[:, start:stop], run, start)
            for table, run in zip(tables, keys, strict=True) if bool(table[:, start:stop].any())
        ]
        groups.append(_Group(start, stop, queries.stride, sources, _mask(sources, streams)))
    return groups


def _source(table: Tensor, keys: Run, start: int) -> _Source:
    units, stretches = table.shape[1:]
    own = torch.zeros(units, stretches, dtype=torch.bool, device=table.device)
    if start + units <= stretches:
        own[:, start : start + units].fill_diagonal_(True)
    if bool((table == own).all()):
        return _Source(keys, None, torch.ones_like(table[..., :1]))
    # True entries first, in order; what is left over points at stretch 0 and is masked.
    most = int(table.sum(-1).max())
    order = torch.argsort(table.to(torch.int8), dim=-1, descending=True, stable=True)[..., :most]
    valid = table.gather(-1, order)
    return _Source(keys, order.masked_fill(~valid, 0), valid)


def _mask(sources: list[_Source], streams: int) -> Tensor | None:
    """(B * U, 1, 1, keys) booleans, or None where every gathered key is real."""
    if all(bool(source.valid.all()) for source in sources):
        return None
    columns = [
        source.valid.repeat_interleave(source.keys.size, dim=-1).expand(streams, -1, -1)
        for source in sources
    ]
    return torch.cat(columns, dim=-1).flatten(0, 1)[:, None, None]


def _gather(x: Tensor, source: _Source, group: _Group) -> Tensor:
    """Keys or values (B, N, S, d) -> what each stretch of a group sees, (B * U, keys, N, d)."""
    run = source.keys
    batch, heads, _, width = x.shape
    rows = x.transpose(1, 2).reshape(batch, run.count, run.stride, heads, width)
    rows = rows[:, :, run.offset : run.offset + run.size]
    if source.index is None:
        return rows[:, group.start : group.stop].reshape(-1, run.size, heads, width)
    index = source.index.expand(batch, -1, -1)
    base = torch.arange(batch, device=x.device)[:, None, None] * run.count
    flat = rows.reshape(batch * run.count, run.size * heads * width)
    picked = flat.index_select(0, (index + base).flatten())
    return picked.view(-1, index.shape[-1] * run.size, heads, width)


def _whole(qkv: list[QKV]) -> tuple[Tensor, Tensor, Tensor]:
    """All segments as one sequence. Where nobody wants to know what a segment saw, its queries
    are missing; keys stand in for them, and what they see goes unread."""
    queries = torch.cat([k if q is None else q for q, k, _ in qkv], dim=2)
    return queries, torch.cat([k for _, k, _ in qkv], dim=2), torch.cat([v for *_, v in qkv], dim=2)


def _cat(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
