"""The form of training on a CPU: blocks of queries gather the keys that they see.

Queries go in runs (a frame with its gists; the frames denoised together) that see the same keys, so
each run gathers the runs of keys it may see and attends to them on a batch dimension, without the
rest of the sequence. What is gathered is planned on the host, from the rule and the coordinates of
spans alone: on a GPU nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loci.attention.block import attend
from loci.attention.dense import QKV
from loci.rules.rule import Coords, Rule
from loci.rules.spans import token_spans


@dataclass(frozen=True)
class Run:
    """Tokens of part number `part` that see, or are seen, alike: `size` of them from `offset` on in
    each of its `count` units (frames, or groups) of `stride` tokens. span: the first of the unit's
    spans that they are."""

    part: int
    span: int
    count: int
    stride: int
    offset: int
    size: int


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
    """`count` query units side by side, in blocks of `block`. bias: 0 for keys that are real,
    else -inf, (B * blocks, 1, 1 or the block's tokens, keys); None where all are."""

    count: int
    block: int
    bias: Tensor | None


@dataclass(frozen=True)
class _Source:
    """What the blocks see of the run of keys number `run`: `each[g]` of its units for every one
    of group g, `index` over all episodes, group after group. None: each unit sees its own."""

    run: int
    index: Tensor | None
    each: list[int]


@dataclass(frozen=True)
class _Plan:
    """Query units in groups, and what they see."""

    groups: list[_Group]
    sources: list[_Source]


class Gather:
    """Each block of queries attends to what it may see, on a batch dimension.

    Whatever is cut is cut once, for all groups: a slice by itself would leave a gradient as large
    as the whole behind, filled with zeros.
    """

    def __init__(
        self, rule: Rule, parts: Sequence[Coords], groups: Sequence[int], streams: int,
        device: torch.device,
    ):
        """parts: tokens at coords (S,) each, `groups` frames or groups of equal makeup in it;
        streams: B."""
        self.parts = [
            _Part(number, count, coords) for number, (coords, count) in
            enumerate(zip(parts, groups, strict=True))
        ]
        seen = _seen(rule, self.parts)
        self.keys = [run for part in self.parts for run in _runs(part, seen, keys=True)]
        self.queries = [_runs(part, seen, keys=False) for part in self.parts]
        self.plans = [
            [_plan(run, self.keys, _tables(run, self.keys, seen), streams, device) for run in runs]
            for runs in self.queries
        ]

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor | None]:
        keys = self._cut([k for _, k, _ in qkv])
        values = self._cut([v for *_, v in qkv])
        return [
            None if q is None else self._part(part, runs, plans, q, keys, values)
            for part, runs, plans, (q, _, _)
            in zip(self.parts, self.queries, self.plans, qkv, strict=True)
        ]

    @staticmethod
    def _part(
        part: _Part, runs: list[Run], plans: list[_Plan], q: Tensor, keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        """What the queries (B, N, S, d) of a part see."""
        whole = _grouped(q, part)  # (B, U, stride, N, d)
        split = whole.split([run.size for run in runs], dim=2)
        seen = [
            _attend(plan, piece, keys, values).unflatten(1, (part.count, -1))
            for plan, piece in zip(plans, split, strict=True)
        ]
        return _cat(seen, dim=2).flatten(1, 2).transpose(1, 2)

    def _cut(self, parts: list[Tensor]) -> list[Tensor]:
        """Keys or values (B, N, S, d) of all parts, run by run (B, U, size, N, d)."""
        cut: list[Tensor] = []
        for part, x in zip(self.parts, parts, strict=True):
            sizes = [run.size for run in self.keys if run.part == part.number]
            cut += _grouped(x, part).split(sizes, dim=2)
        return cut


class _Part:
    """The spans of a part: of each of its `count` groups `spans` ones, of `sizes` tokens."""

    def __init__(self, number: int, count: int, coords: Coords):
        self.number, self.count, self.stride = number, count, len(coords) // count
        spans = token_spans(coords[: self.stride])
        self.starts, self.sizes = spans.starts.tolist(), spans.sizes.tolist()
        first = torch.arange(count)[:, None] * self.stride + spans.starts
        self.coords = coords[first.flatten()]  # (count * spans,), group by group

    @property
    def spans(self) -> int:
        return len(self.starts)


def _seen(rule: Rule, parts: Sequence[_Part]) -> list[list[Tensor]]:
    """What the spans of each part see of those of each other one, (B or 1, U, spans, U', spans')
    booleans on the host."""
    together = Coords.cat([part.coords for part in parts]).to("cpu")
    mask = rule.mask(together, together)
    mask = mask if mask.dim() == 3 else mask[None]
    sizes = [part.count * part.spans for part in parts]
    return [
        [
            block.unflatten(1, (queries.count, -1)).unflatten(3, (keys.count, -1))
            for keys, block in zip(parts, row.split(sizes, dim=2), strict=True)
        ]
        for queries, row in zip(parts, mask.split(sizes, dim=1), strict=True)
    ]


def _runs(part: _Part, seen: list[list[Tensor]], keys: bool) -> list[Run]:
    """Neighbouring spans of a part that are seen alike by everybody (keys), or see alike."""
    if keys:
        tables = [row[part.number].movedim(4, 0) for row in seen]  # (spans', B, U, spans, U')
    else:
        tables = [block.movedim(2, 0) for block in seen[part.number]]
    runs: list[Run] = []
    for span, (start, size) in enumerate(zip(part.starts, part.sizes, strict=True)):
        if runs and all(torch.equal(table[span], table[span - 1]) for table in tables):
            runs[-1] = replace(runs[-1], size=runs[-1].size + size)
        else:
            runs.append(Run(part.number, span, part.count, part.stride, start, size))
    return runs


def _tables(run: Run, keys: Sequence[Run], seen: list[list[Tensor]]) -> list[Tensor]:
    """Which groups of each run of keys a run of queries sees, (B or 1, U, U')."""
    return [
        seen[run.part][other.part][:, :, run.span, :, other.span] for other in keys
    ]


def _grouped(x: Tensor, part: _Part) -> Tensor:
    """(B, N, S, d) -> (B, U, stride, N, d)."""
    return x.transpose(1, 2).unflatten(1, (part.count, part.stride))


def _attend(plan: _Plan, q: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """What queries q (B, U, P, N, d) see, (B, U * P, N, d)."""
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
    return _cat(seen, dim=1)


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


def _plan(
    queries: Run, keys: Sequence[Run], tables: Sequence[Tensor], streams: int,
    device: torch.device,
) -> _Plan:
    """Cut the groups of a run into blocks, and say what each gathers; tables (B or 1, U, U'): what
    they see of each run of keys."""
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
        source, valid = _source(tables[number], number, counts, sizes, streams, device)
        sources.append(source)
        for columns, entries in zip(real, valid, strict=True):
            columns.append(entries.repeat_interleave(run.size, -1).expand(streams, -1, -1, -1))
    groups = [
        _Group(count, size, _bias(torch.cat(columns, dim=-1), queries.size, device))
        for count, size, columns in zip(counts, sizes, real, strict=True)
    ]
    return _Plan(groups, sources)


def _cut(count: int, block: int, tables: list[Tensor]) -> list[tuple[int, list[int]]]:
    """Groups of `count` query units in blocks of `block`: of each how many units it has,
    and how many of each table's (B or 1, count, units) a block of it sees at most. Blocks that
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
    table: Tensor, number: int, counts: list[int], sizes: list[int], streams: int,
    device: torch.device,
) -> tuple[_Source, list[Tensor]]:
    """What groups of `counts` queries in blocks of `sizes` take of run `number`, by the table
    (B or 1, queries, units) of who sees whom; and what of it is real, (B or 1, blocks, queries
    of the block, entries)."""
    count = table.shape[-1]
    groups = [
        part.unflatten(1, (-1, size))
        for part, size in zip(table.split(counts, dim=1), sizes, strict=True)
    ]
    own = torch.eye(count, dtype=torch.bool)
    if table.shape[1] == count and bool((table == own).all()):
        each = [own[:size, :size].expand(1, group.shape[1], -1, -1)
                for group, size in zip(groups, sizes, strict=True)]
        return _Source(number, None, []), each
    base = count * torch.arange(streams)[:, None, None]
    index, valid = [], []
    for group in groups:
        # What the block sees first, in order; what is left over points at unit 0 and is masked.
        seen = group.any(2)
        most = int(seen.sum(-1).max())
        order = seen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :most]
        index.append((order.masked_fill(~seen.gather(-1, order), 0) + base).flatten())
        valid.append(group.gather(-1, order[:, :, None].expand(-1, -1, group.shape[2], -1)))
    return _Source(number, torch.cat(index).to(device), [part.shape[-1] for part in valid]), valid


def _bias(real: Tensor, tokens: int, device: torch.device) -> Tensor | None:
    """What hides the keys that are not real, (B, blocks, block, keys), from queries of `tokens` a
    unit; None where all are real."""
    if bool(real.all()):
        return None
    bias = torch.zeros(real.shape).masked_fill_(~real, -torch.inf)
    bias = bias.flatten(0, 1)[:, None]
    bias = bias if bias.shape[2] == 1 else bias.repeat_interleave(tokens, dim=2)
    return bias.to(device)


def _cat(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
