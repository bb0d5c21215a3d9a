"""One rule, three ways to attend: dense reference, windowed form, FlexAttention.

The dense mask is the reference and runs anywhere. The windowed form is what training uses on a
CPU: queries go in runs (a frame with its gists; the frames denoised together) that see the same
keys, so each run gathers the runs of keys it may see and attends to them on a batch dimension,
without the rest of the sequence. FlexAttention is the same rule on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loci.attention.block import attend
from loci.attention.dense import QKV
from loci.rules.rule import Coords, Rule


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


# Blocks that see differently many keys go in up to so many groups, so that those early in an
# episode are not filled up to the size of the last ones.
GROUPS = 4
# Stretches side by side that may be one block: they see nearly the same keys, which are then
# gathered once, at the price of attending to those that some of them must not see.
BLOCKS = (1, 2, 4, 8, 16)
# To gather a key and to let a query attend to it: the first costs this many times the second
# (AVX2, one thread, heads of 32, forward and backward).
GATHERED = 88


@dataclass(frozen=True)
class _Group:
    """`count` query stretches side by side, in blocks of `block`. bias: 0 for keys that are real,
    else -inf, (B * blocks, 1, 1 or the block's tokens, keys); None where all are."""

    count: int
    block: int
    bias: Tensor | None


@dataclass(frozen=True)
class _Source:
    """What the blocks see of the run of keys number `run`: `each[g]` of its stretches for every one
    of group g, `index` over all episodes, group after group. None: each stretch sees its own."""

    run: int
    index: Tensor | None
    each: list[int]


@dataclass(frozen=True)
class _Plan:
    """Query stretches in groups, and what they see."""

    groups: list[_Group]
    sources: list[_Source]


class Windowed:
    """Each block of query stretches attends to what it may see, on a batch dimension.

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
    asked = zip(
        plan.groups, q.split([group.count for group in plan.groups], dim=1),
        _gather(plan, keys), _gather(plan, values), strict=True,
    )
    seen = [
        attend(
            _blocks(x, group).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), group.bias
        ).transpose(1, 2).reshape(len(q), -1, *q.shape[3:])
        for group, x, k, v in asked
    ]
    return _cat(seen, dim=1).transpose(1, 2)


def _gather(plan: _Plan, parts: list[Tensor]) -> list[Tensor]:
    """Keys or values of all runs -> what the blocks of each group see, (B * blocks, keys, N, d)."""
    groups, columns = plan.groups, []
    for source in plan.sources:
        part = parts[source.run]
        batch, _, size, heads, width = part.shape
        if source.index is None:
            own = part.split([group.count for group in groups], dim=1)
            columns.append([_blocks(x, group) for x, group in zip(own, groups, strict=True)])
            continue
        rows = part.reshape(-1, size * heads * width).index_select(0, source.index)
        taken = [
            (batch * group.count // group.block, each)
            for group, each in zip(groups, source.each, strict=True)
        ]
        found = rows.split([blocks * each for blocks, each in taken])
        columns.append([
            x.view(blocks, each * size, heads, width)
            for x, (blocks, each) in zip(found, taken, strict=True)
        ])
    return [_cat(list(group), dim=1) for group in zip(*columns, strict=True)]


def _blocks(x: Tensor, group: _Group) -> Tensor:
    """Stretches (B, U, P, N, d) -> (B * blocks, block * P, N, d)."""
    return x.reshape(-1, group.block * x.shape[2], *x.shape[3:])


def _plan(rule: Rule, queries: Run, keys: list[Run], streams: int) -> _Plan:
    """Cut the stretches of a segment into blocks and groups, and say what each gathers."""
    tables = [rule.mask(queries.coords, run.coords) for run in keys]
    tables = [t[None] if t.dim() == 2 else t for t in tables]  # (B or 1, U, stretches)
    seen = [number for number, table in enumerate(tables) if bool(table.any())]
    cuts = {block: _cut(queries.count, block, [tables[n] for n in seen]) for block in BLOCKS}

    def cost(block: int) -> float:
        """What it costs to attend in such blocks; the fewer keys are gathered, the better."""
        found = 0
        for count, each in cuts[block]:
            size = min(block, count)
            wide = sum(keys[n].size * most for n, most in zip(seen, each, strict=True))
            found += count // size * wide * (GATHERED + size * queries.size)
        return found

    block = min(BLOCKS, key=cost)
    counts = [count for count, _ in cuts[block]]
    sizes = [min(block, count) for count in counts]
    sources: list[_Source] = []
    real: list[list[Tensor]] = [[] for _ in counts]
    for number in seen:
        run = keys[number]
        source, valid = _source(tables[number], number, counts, sizes, streams)
        sources.append(source)
        for columns, entries in zip(real, valid, strict=True):
            columns.append(entries.repeat_interleave(run.size, -1).expand(streams, -1, -1, -1))
    groups = [
        _Group(count, size, _bias(torch.cat(columns, dim=-1), queries.stride))
        for count, size, columns in zip(counts, sizes, real, strict=True)
    ]
    return _Plan(groups, sources)


def _cut(count: int, block: int, tables: list[Tensor]) -> list[tuple[int, list[int]]]:
    """Groups of `count` query stretches in blocks of `block`: of each how many stretches it has,
    and how many of each table's (B or 1, count, stretches) a block of it sees at most. Blocks that
    see equally many are one group; what fills no block is the last."""
    whole = count - count % block
    most = [
        table[:, :whole].unflatten(1, (-1, block)).any(2).sum(-1).amax(0) for table in tables
    ]  # of each block
    blocks = whole // block
    alike = all(bool((each == each[:1]).all()) for each in most)
    width = blocks if alike else -(-blocks // GROUPS)
    cut = [
        (block * len(part), [int(each[part].max()) for each in most])
        for part in torch.arange(blocks).split(max(1, width)) if len(part)
    ]
    if whole < count:
        left = [int(table[:, whole:].any(1).sum(-1).max()) for table in tables]
        cut.append((count - whole, left))
    return cut


def _source(
    table: Tensor, number: int, counts: list[int], sizes: list[int], streams: int
) -> tuple[_Source, list[Tensor]]:
    """What groups of `counts` queries in blocks of `sizes` take of run `number`, by the table
    (B or 1, queries, stretches) of who sees whom; and what of it is real, (B or 1, blocks, queries
    of the block, entries)."""
    count = table.shape[-1]
    groups = [
        part.unflatten(1, (-1, size))
        for part, size in zip(table.split(counts, dim=1), sizes, strict=True)
    ]
    own = torch.eye(count, dtype=torch.bool, device=table.device)
    if table.shape[1] == count and bool((table == own).all()):
        each = [own[:size, :size].expand(1, group.shape[1], -1, -1)
                for group, size in zip(groups, sizes, strict=True)]
        return _Source(number, None, []), each
    base = count * torch.arange(streams, device=table.device)[:, None, None]
    index, valid = [], []
    for group in groups:
        # What the block sees first, in order; what is left over points at stretch 0 and is masked.
        seen = group.any(2)
        most = int(seen.sum(-1).max())
        order = seen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :most]
        index.append((order.masked_fill(~seen.gather(-1, order), 0) + base).flatten())
        valid.append(group.gather(-1, order[:, :, None].expand(-1, -1, group.shape[2], -1)))
    return _Source(number, torch.cat(index), [part.shape[-1] for part in valid]), valid


def _bias(real: Tensor, tokens: int) -> Tensor | None:
    """What hides the keys that are not real, (B, blocks, block, keys), from queries of `tokens` a
    stretch; None where all are real."""
    if bool(real.all()):
        return None
    bias = torch.zeros(real.shape, device=real.device).masked_fill_(~real, -torch.inf)
    bias = bias.flatten(0, 1)[:, None]
    return bias if bias.shape[2] == 1 else bias.repeat_interleave(tokens, dim=2)


def _cat(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
