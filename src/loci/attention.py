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

    The runs of segment `segment` follow each other within each of its `count` frames (or groups) of
    `stride` tokens. coords: one representative a stretch, (count,).
    """

    segment: int
    count: int
    stride: int
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
    """What query stretches see of the run of keys number `run`: `each[g]` of its stretches for
    every one of group g, `index` over all episodes, group after group. None: each sees its own."""

    run: int
    index: Tensor | None
    each: list[int]


@dataclass(frozen=True)
class _Plan:
    """Query stretches in groups of `counts` neighbours, what they see, and which of it is real:
    masks (B * U, 1, 1, keys) of each group, None where all is."""

    counts: list[int]
    sources: list[_Source]
    masks: list[Tensor | None]


class Windowed:
    """Each run of queries attends to the stretches that it may see, on a batch dimension.

    Whatever is cut into parts is cut once, for all groups: a slice by itself would leave a
    gradient as large as the whole behind, filled with zeros.
    """

    def __init__(self, rule: Rule, queries: list[Run], keys: list[Run], streams: int):
        """queries: how each segment splits into stretches of `stride` tokens that see the same
        keys; keys: the runs that together are all keys, in order; streams: B."""
        self.queries, self.keys = queries, keys
        self.plans = [_plan(rule, run, keys, streams) for run in queries]

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor | None]:
        keys = self._runs([k for _, k, _ in qkv])
        values = self._runs([v for *_, v in qkv])
        return [
            None if q is None else _attend(plan, _stretches(q, run), keys, values)
            for run, plan, (q, _, _) in zip(self.queries, self.plans, qkv, strict=True)
        ]

    def _runs(self, segments: list[Tensor]) -> list[Tensor]:
        """Keys or values (B, N, S, d) of all segments, run by run (B, stretches, size, N, d)."""
        parts: list[Tensor] = []
        for segment, x in enumerate(segments):
            runs = [run for run in self.keys if run.segment == segment]
            parts += _stretches(x, runs[0]).split([run.size for run in runs], dim=2)
        return parts


def _stretches(x: Tensor, run: Run) -> Tensor:
    """(B, N, S, d) -> (B, stretches, stride, N, d)."""
    return x.transpose(1, 2).unflatten(1, (run.count, run.stride))


def _attend(plan: _Plan, q: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """What query stretches q (B, U, P, N, d) see, (B, N, U * P, d)."""
    groups = zip(
        q.split(plan.counts, dim=1), _gather(plan, keys), _gather(plan, values), plan.masks,
        strict=True,
    )
    seen = [
        F.scaled_dot_product_attention(
            asked.flatten(0, 1).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask
        ).transpose(1, 2).unflatten(0, asked.shape[:2])
        for asked, k, v, mask in groups
    ]
    return _cat(seen, dim=1).flatten(1, 2).transpose(1, 2)


def _gather(plan: _Plan, parts: list[Tensor]) -> list[Tensor]:
    """Keys or values of all runs -> what the stretches of each group see, (B * U, keys, N, d)."""
    columns = []
    for source in plan.sources:
        part = parts[source.run]
        batch, _, size, heads, width = part.shape
        if source.index is None:
            columns.append([own.flatten(0, 1) for own in part.split(plan.counts, dim=1)])
            continue
        rows = part.reshape(-1, size * heads * width).index_select(0, source.index)
        taken = list(zip([batch * count for count in plan.counts], source.each, strict=True))
        found = rows.split([stretches * each for stretches, each in taken])
        columns.append([
            x.view(stretches, each * size, heads, width)
            for x, (stretches, each) in zip(found, taken, strict=True)
        ])
    return [_cat(list(group), dim=1) for group in zip(*columns, strict=True)]


def _plan(rule: Rule, queries: Run, keys: list[Run], streams: int) -> _Plan:
    """Cut the stretches of a segment into groups, and say what each gathers."""
    tables = [rule.mask(queries.coords, run.coords) for run in keys]
    tables = [t[None] if t.dim() == 2 else t for t in tables]  # (B or 1, U, stretches)
    alike = all(bool((n == n[0]).all()) for n in (t.sum(-1).amax(0) for t in tables))
    width = queries.count if alike else -(-queries.count // GROUPS)
    counts = [len(part) for part in torch.arange(queries.count).split(width)]
    sources: list[_Source] = []
    real: list[list[Tensor]] = [[] for _ in counts]
    for number, (run, table) in enumerate(zip(keys, tables, strict=True)):
        if not bool(table.any()):
            continue
        source, valid = _source(table, number, run.count, counts, streams)
        sources.append(source)
        for columns, entries in zip(real, valid, strict=True):
            columns.append(entries.repeat_interleave(run.size, -1).expand(streams, -1, -1))
    return _Plan(counts, sources, [_mask(torch.cat(columns, dim=-1)) for columns in real])


def _source(
    table: Tensor, number: int, count: int, counts: list[int], streams: int
) -> tuple[_Source, list[Tensor]]:
    """What groups of `counts` queries take of `count` stretches, by the table (B or 1, U, count)
    of who sees whom; and what of it is real, (B or 1, queries of the group, entries)."""
    groups = table.split(counts, dim=1)
    own = torch.eye(count, dtype=torch.bool, device=table.device)
    if table.shape[1] == count and bool((table == own).all()):
        return _Source(number, None, []), [torch.ones_like(group[..., :1]) for group in groups]
    base = count * torch.arange(streams, device=table.device)[:, None, None]
    index, valid = [], []
    for group in groups:
        # True entries first, in order; what is left over points at stretch 0 and is masked.
        most = int(group.sum(-1).max())
        order = group.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :most]
        valid.append(group.gather(-1, order))
        index.append((order.masked_fill(~valid[-1], 0) + base).flatten())
    return _Source(number, torch.cat(index), [part.shape[-1] for part in valid]), valid


def _mask(real: Tensor) -> Tensor | None:
    """A mask for keys of which (B, U, keys) are real; None where all are."""
    return None if bool(real.all()) else real.flatten(0, 1)[:, None, None]


def _whole(qkv: list[QKV]) -> tuple[Tensor, Tensor, Tensor]:
    """All segments as one sequence. Where nobody wants to know what a segment saw, its queries
    are missing; keys stand in for them, and what they see goes unread."""
    queries = torch.cat([k if q is None else q for q, k, _ in qkv], dim=2)
    return queries, torch.cat([k for _, k, _ in qkv], dim=2), torch.cat([v for *_, v in qkv], dim=2)


def _cat(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
