"""How a pass over the model meets the cache: what `attention.py` is to training, for streams.

Streams of one length that lie side by side go together, others one after the other: padding a
ragged batch and masking it costs more than a loop over slices, and the linear layers stay batched.
A job is the attention of one such group in every layer: `step` and `prefill` commit new frames
while they attend, `look` finds what a chunk may see, `denoise` attends to it without a trace and
`keep` leaves the chunk in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from loci.attention.dense import QKV, AttentionFn
from loci.rules.rule import Coords, Rule
from loci.rules.spans import Stretches, stretches
from loci.streaming.kv_cache import Cache

# (layer, queries or None, keys, values) of a group's rows -> what the queries saw.
Job = Callable[[int, Tensor | None, Tensor, Tensor], Tensor | None]


@dataclass(frozen=True)
class Group:
    """Streams that go together: where they are in the cache and in the batch, and how many frames
    each of them has seen."""

    streams: slice
    rows: slice
    written: int

    @property
    def first(self) -> int:
        return self.streams.start


def group(cache: Cache, names: Sequence[int]) -> list[Group]:
    """Streams `names`, the rows of a batch, in as few groups as their lengths allow."""
    groups: list[Group] = []
    for row, name in enumerate(names):
        begin, first = name, row
        if groups and groups[-1].streams.stop == name:
            last = groups[-1]
            if last.written == cache.written[name]:
                begin, first = last.streams.start, last.rows.start
                groups.pop()
        streams, rows = slice(begin, name + 1), slice(first, row + 1)
        groups.append(Group(streams, rows, cache.written[name]))
    return groups


def attend(groups: Sequence[Group], jobs: Sequence[Job]) -> AttentionFn:
    """Each group's own attention, and the rows together again."""

    def run(layer: int, qkv: list[QKV]) -> list[Tensor | None]:
        ((q, k, v),) = qkv
        outs = [
            job(layer, None if q is None else q[g.rows], k[g.rows], v[g.rows])
            for g, job in zip(groups, jobs, strict=True)
        ]
        seen = [out for out in outs if out is not None]
        return [torch.cat(seen) if len(seen) > 1 else seen[0] if seen else None]

    return run


def step(cache: Cache, rule: Rule, group: Group, coords: Coords) -> Job:
    """One new frame: it takes its slots first, so that whoever it evicts is not seen, unless it is
    there to sum these up."""
    if cache.layout.sums_up(group.written):
        return prefill(cache, rule, group, coords, 1)
    moves = cache.mark(group.streams, coords, group.written)
    asking = stretches(coords)
    known = stretches(cache.coords(group.first, cache.layout.end(group.written + 1)))
    seen = rule.mask(asking.coords, known.coords)
    pick, some = _picker(cache, group, known, seen)
    seen, mask = seen[:, some], None
    if not seen.all():
        mask = _spread(seen, asking, known.sizes[some]).to(cache.keys[0].device)

    def job(layer: int, q: Tensor | None, k: Tensor, v: Tensor) -> Tensor | None:
        _commit(cache, layer, group, moves, k, v)
        if q is None:
            return None
        keys, values = pick(cache.keys[layer]), pick(cache.values[layer])
        return F.scaled_dot_product_attention(q, keys, values, mask)

    return job


def prefill(cache: Cache, rule: Rule, group: Group, coords: Coords, count: int) -> Job:
    """`count` new frames in one pass: what they see of the old slots, and each other."""
    new = stretches(coords)
    old = stretches(cache.coords(group.first, cache.layout.end(group.written)))
    seen = rule.mask(new.coords, old.coords)
    pick, some = _picker(cache, group, old, seen)
    seen = torch.cat([seen[:, some], rule.mask(new.coords, new.coords)], dim=1)
    mask = _spread(seen, new, torch.cat([old.sizes[some], new.sizes])).to(cache.keys[0].device)
    frames = range(group.written, group.written + count)
    moves = [move for frame in frames for move in cache.mark(group.streams, coords, frame)]

    def job(layer: int, q: Tensor | None, k: Tensor, v: Tensor) -> Tensor | None:
        seen = None
        if q is not None:
            # Before the new frames evict anybody: the first of them may still see who goes later.
            keys = torch.cat([pick(cache.keys[layer]), k], dim=2)
            values = torch.cat([pick(cache.values[layer]), v], dim=2)
            seen = F.scaled_dot_product_attention(q, keys, values, mask)
        _commit(cache, layer, group, moves, k, v)
        return seen

    return job


@dataclass(frozen=True, eq=False)
class View:
    """What a group's chunk may see of the past: the slots start to stop of the cache, or copies of
    keys and values for each layer where these are no single slice; and a mask where one is needed.
    """

    group: Group
    start: int
    stop: int
    mask: Tensor | None
    copies: tuple[list[Tensor], list[Tensor]] | None = None


def look(cache: Cache, rule: Rule, group: Group, coords: Coords) -> View:
    """What tokens at `coords` (S,), frame by frame, see of the past. Changes nothing."""
    stop = cache.layout.end(group.written)
    tail = rule.mask(coords, coords)
    tail = tail if tail.dim() == 2 else tail[0]
    asking, known = stretches(coords), stretches(cache.coords(group.first, stop))
    seen = rule.mask(asking.coords, known.coords)
    alike = seen.dim() == 2 and bool((seen == seen[:1]).all())
    span = known.span(seen[0]) if alike else None
    if span is None or span[1] != stop:
        return _collect(cache, group, asking, known, seen, tail)
    mask = None
    if not tail.all():
        before = tail.new_ones(len(tail), stop - span[0])
        mask = torch.cat([before, tail], dim=1).to(cache.keys[0].device)
    return View(group, *span, mask)


def _collect(
    cache: Cache, group: Group, asking: Stretches, known: Stretches, seen: Tensor, tail: Tensor
) -> View:
    """Visible slots that are no single slice: copied once for the chunk, not for each step.

    seen (n, m) or (b, n, m): what the stretches `asking` of the chunk see of those `known`;
    tail (S, S) among its tokens.
    """
    streams, device = group.streams.stop - group.first, cache.keys[0].device
    places, masks = [], []
    for each in seen.expand(streams, *seen.shape[-2:]):
        some = each.any(dim=0)
        places.append(known.tokens(some))
        masks.append(_spread(each[:, some], asking, known.sizes[some]))
    most = max(len(slots) for slots in places)
    # Streams that see fewer slots than others take the first one instead, unseen.
    here = torch.stack([F.pad(slots, (0, most - len(slots))) for slots in places]).to(device)
    before = torch.stack([F.pad(part, (0, most - part.shape[1])) for part in masks])

    def pick(buffer: Tensor) -> Tensor:
        index = here[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
        return F.pad(buffer[group.streams].gather(2, index), (0, 0, 0, len(tail)))

    mask = None
    if not (before.all() and tail.all()):
        mask = torch.cat([before, tail.expand(streams, -1, -1)], dim=2)[:, None].to(device)
    copies = [pick(k) for k in cache.keys], [pick(v) for v in cache.values]
    return View(group, 0, most, mask, copies)


def denoise(cache: Cache, view: View) -> Job:
    """Attention of a chunk that leaves no trace: its keys use the scratch behind the visible ones.

    The cache's buffers are looked up when the job runs, since other streams may have made it grow.
    """

    def job(layer: int, q: Tensor | None, k: Tensor, v: Tensor) -> Tensor | None:
        keys, values = cache.keys[layer], cache.values[layer]
        rows = view.group.streams
        if view.copies is not None:
            keys, values, rows = view.copies[0][layer], view.copies[1][layer], slice(None)
        low, stop, high = view.start, view.stop, view.stop + k.shape[2]
        if any(x is not None and x.requires_grad for x in (q, k, v, keys, values)):
            keys = torch.cat([keys[rows, :, low:stop], k], dim=2)
            values = torch.cat([values[rows, :, low:stop], v], dim=2)
        else:
            keys[rows, :, stop:high], values[rows, :, stop:high] = k, v
            keys, values = keys[rows, :, low:high], values[rows, :, low:high]
        return None if q is None else F.scaled_dot_product_attention(q, keys, values, view.mask)

    return job


def keep(cache: Cache, rule: Rule, group: Group, coords: Coords) -> Job:
    """Actions that were carried out after the last frame: they attend, then take their slots behind
    all that is in use, where they count once the next frame is written."""
    attended = denoise(cache, look(cache, rule, group, coords))
    moves = cache.mark(group.streams, coords, group.written)

    def job(layer: int, q: Tensor | None, k: Tensor, v: Tensor) -> Tensor | None:
        seen = attended(layer, q, k, v)
        _commit(cache, layer, group, moves, k, v)
        return seen

    return job


def _commit(
    cache: Cache, layer: int, group: Group, moves: list[tuple[slice, int]], k: Tensor, v: Tensor
) -> None:
    for which, start in moves:
        cache.put(layer, group.streams, start, k[:, :, which], v[:, :, which])


def _picker(
    cache: Cache, group: Group, known: Stretches, seen: Tensor
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """What takes the slots that anybody sees out of a buffer (a view where they are one slice), and
    which of the stretches `known` they are; seen (Q, n)."""
    some = seen.any(dim=0)
    span = known.span(some)
    if span is not None:
        return lambda buffer: buffer[group.streams, :, span[0] : span[1]], some
    here = known.tokens(some).to(cache.keys[0].device)
    return lambda buffer: buffer[group.streams].index_select(2, here), some


def _spread(seen: Tensor, asking: Stretches, sizes: Tensor) -> Tensor:
    """What stretches see of stretches, (n, m), as what tokens see of tokens."""
    return seen.repeat_interleave(asking.sizes, dim=0).repeat_interleave(sizes, dim=1)
