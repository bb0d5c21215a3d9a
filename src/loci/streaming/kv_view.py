"""What tokens see of a key-value cache, worked out once for a pass or for all steps of a chunk.

Streams of different lengths attend together: where each sees one slice of its slots, the union of
the slices under a mask, in groups of similar lengths where that would be mostly mask. Where what is
seen is no slice, it is copied, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from loci.attention.dense import QKV
from loci.rules.rule import Coords, Kind, Rule
from loci.rules.spans import TokenSpans, spread, token_spans
from loci.streaming.int8_kv import unpack
from loci.streaming.span_table import SpanTable
from loci.streaming.span_table import coords as block_coords

if TYPE_CHECKING:
    from loci.streaming.kv_cache import KVCache

# Streams of different lengths attend in so many groups at most; one more of them costs as much as
# to attend to so many slots.
GROUPS, GROUP_COST = 4, 2048
NO_BLOCK = int(Kind.EMPTY)
Rows = slice | Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a batch, and what they see: slots start to stop (from the pivot) of `streams`,
    or copies of keys and values for each layer. mask (rows or 1, queries or 1, keys): which of
    them, where it is not all for all. own: tokens of the pass itself that come behind them;
    scratch: in slots that belong to nobody, rather than joined anew in every layer."""

    rows: Rows
    streams: Rows
    start: int
    stop: int
    mask: Tensor | None = None
    copies: tuple[list[Tensor], list[Tensor]] | None = None
    own: int = 0
    scratch: bool = False


@dataclass(frozen=True, eq=False)
class KVView:
    """What the tokens of a pass see of the past, part by part; order: where the rows of all parts
    side by side belong (None: there already)."""

    parts: list[Part]
    order: Tensor | None = None


def look(
    cache: KVCache, streams: Sequence[int], tables: Sequence[SpanTable], coords: Coords,
    written: Sequence[int], selected: Tensor | None = None, scratch: bool = False,
    copies: bool = True,
) -> KVView | None:
    """What tokens at `coords` (S,), shifted by the frames that each of `streams` has `written`, see
    of the blocks in their tables. scratch: their own will stand behind all that is in use. Without
    `copies`, None where it cannot be seen in place."""
    asking = token_spans(coords)
    # Streams of one length ask alike, unless each of them retrieves for itself.
    distinct = list(tables) if selected is not None else list(dict.fromkeys(tables))
    place = {table: number for number, table in enumerate(distinct)}
    which = [n if selected is not None else place[table] for n, table in enumerate(tables)]
    shifts = dict(zip(which, written, strict=True))
    shift = torch.tensor([shifts[number] for number in range(len(distinct))])[:, None]
    # What is padded is a block of no kind, which nobody sees.
    rows = pad_sequence([t.rows for t in distinct], batch_first=True, padding_value=NO_BLOCK)
    starts, sizes, frames, kinds = rows.unbind(2)  # (U, K)
    asked = asking.coords.shift(shift).with_selected(selected)
    seen = cache.rule.mask(asked, block_coords(frames, kinds))  # (U, n, K)
    slices = _visible_slices(starts, sizes, seen, [table.high for table in distinct], scratch)
    if slices is None:
        if not copies:
            return None
        return KVView([_collect(cache, streams, asking, distinct, seen, which)])
    highs = [table.high for table in tables]
    return _slices(cache, streams, [slices[n] for n in which], highs, scratch, copies)


def _visible_slices(
    starts: Tensor, sizes: Tensor, seen: Tensor, highs: Sequence[int], scratch: bool
) -> list[tuple[int, int]] | None:
    """The slice of slots that all queries of each table see, where it is one for each (U); of
    blocks (U, K), which of them are seen (U, n, K)."""
    some = seen.any(1)
    if not bool((seen == some[:, None]).all()):
        return None
    if not some.shape[1]:
        return [(high, high) for high in highs]
    order = torch.arange(some.shape[1])
    first = order.masked_fill(~some, some.shape[1]).amin(1).clamp(max=some.shape[1] - 1)
    last = order.masked_fill(~some, 0).amax(1)
    low = starts.gather(1, first[:, None])[:, 0]
    high = (starts + sizes).gather(1, last[:, None])[:, 0]
    empty, end = ~some.any(1), torch.tensor(highs)
    low, high = torch.where(empty, end, low), torch.where(empty, end, high)
    whole = high - low == (sizes * some).sum(1)
    if scratch:
        whole &= high == end
    return list(zip(low.tolist(), high.tolist(), strict=True)) if bool(whole.all()) else None


def _slices(
    cache: KVCache, streams: Sequence[int], slices: Sequence[tuple[int, int]],
    highs: Sequence[int], scratch: bool, copies: bool,
) -> KVView | None:
    """Each stream sees one slice of its slots; copies: as for `look`."""
    if len(set(slices)) == 1 and (not scratch or len(set(highs)) == 1):
        groups = [list(range(len(streams)))]
    else:
        groups = _groups([hi - lo for lo, hi in slices])
    named = [[streams[row] for row in group] for group in groups]
    if not copies and not all(isinstance(side_by_side(names), slice) for names in named):
        return None
    parts = []
    for group, names in zip(groups, named, strict=True):
        low = min(slices[row][0] for row in group)
        high = max(highs[row] if scratch else slices[row][1] for row in group)
        mask = None
        if any(slices[row] != (low, high) for row in group):
            slots = torch.arange(low, high)
            each = torch.tensor([slices[row] for row in group])
            mask = ((slots >= each[:, :1]) & (slots < each[:, 1:]))[:, None]
        rows = slice(None) if len(groups) == 1 else side_by_side(group)
        rows = rows if isinstance(rows, slice) else rows.to(cache.device)
        parts.append(_part(cache, rows, names, low, high, mask))
    order = [row for group in groups for row in group]
    if order == sorted(order):
        return KVView(parts)
    return KVView(parts, torch.tensor(order).argsort().to(cache.device))


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Rows that attend together: groups of equally many, of similar lengths, as few as pay."""
    rows = sorted(range(len(lengths)), key=lambda row: lengths[row])

    def split(count: int) -> list[list[int]]:
        size = -(-len(rows) // count)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def cost(groups: list[list[int]]) -> int:
        return sum(len(group) * lengths[group[-1]] + GROUP_COST for group in groups)

    best = min((split(count) for count in range(1, GROUPS + 1)), key=cost)
    # In their order, rows that lie side by side need no copy.
    return sorted(sorted(group) for group in best)


def _part(
    cache: KVCache, rows: Rows, names: list[int], low: int, high: int, mask: Tensor | None
) -> Part:
    """A slice of the slots of streams `names`: a view of the cache where these lie side by side,
    else a copy."""
    if mask is not None:
        mask = mask.to(cache.device)
    streams = side_by_side(names)
    if isinstance(streams, slice):
        return Part(rows, streams, low, high, mask)
    index = streams.to(cache.device)
    slots = slice(cache.pivot + low, cache.pivot + high)
    copies = [[buffer[:, :, slots].index_select(0, index) for buffer in buffers]
              for buffers in (cache.keys, cache.values)]
    return Part(rows, slice(None), 0, high - low, mask, (copies[0], copies[1]))


def _collect(
    cache: KVCache, streams: Sequence[int], asking: TokenSpans, tables: Sequence[SpanTable],
    seen: Tensor, which: Sequence[int],
) -> Part:
    """Slots that are no single slice, or not the same for all queries: copied. Streams that see
    fewer than others take the first slot there is instead, unseen."""
    places, masks = [], []
    for table, each in zip(tables, seen, strict=True):
        each = each[:, : len(table.spans)]
        some = each.any(0)
        places.append(cache.pivot + table.spans.tokens(some))
        masks.append(spread(each[:, some], asking, table.spans.sizes[some]))
    index = pad_sequence(places, batch_first=True)[which].to(cache.device)  # (B, K)
    most = index.shape[1]
    mask = torch.stack([F.pad(part, (0, most - part.shape[1])) for part in masks])
    rows = torch.tensor(list(streams), device=cache.device)[:, None]

    def pick(buffer: Tensor) -> Tensor:
        # Only what is seen: the buffers have room for many times as much.
        return buffer.transpose(1, 2)[rows, index].transpose(1, 2)

    copies = [pick(k) for k in cache.keys], [pick(v) for v in cache.values]
    mask = None if bool(mask.all()) else mask[which].to(cache.device)
    return Part(slice(None), slice(None), 0, most, mask, copies)


def side_by_side(names: Sequence[int]) -> Rows:
    """Streams as a slice, where they are one, else as an index."""
    first = names[0]
    if list(names) == list(range(first, first + len(names))):
        return slice(first, first + len(names))
    return torch.tensor(list(names))


def see_each_other(
    view: KVView, rule: Rule, coords: Coords, written: Sequence[int], device: torch.device,
    scratch: bool,
) -> KVView:
    """The tokens of the pass stand behind what they see of the past, and see each other by the
    rule. scratch: as for `Part`."""
    spans, lengths = token_spans(coords), sorted(set(written))
    shifted = spans.coords.shift(torch.tensor(lengths)[:, None])
    tails = spread(rule.mask(shifted, shifted), spans, spans.sizes)  # (lengths, S, S)
    if bool((tails == tails[:1]).all()):
        tails, which = tails[:1], torch.zeros(len(written), dtype=torch.long)
    else:
        which = torch.tensor([lengths.index(count) for count in written])
    own, everybody = len(coords), bool(tails.all())
    parts = []
    for part in view.parts:
        mask = part.mask
        if mask is not None or not everybody:
            here = tails if len(tails) == 1 else tails[which][part.rows]
            here, before = here.to(device), mask
            if before is None:
                before = here.new_ones(1, 1, part.stop - part.start)
            if everybody and before.shape[1] == 1:
                here = here[:, :1]
            rows, queries = max(len(before), len(here)), here.shape[1]
            mask = torch.cat([before.expand(rows, queries, -1), here.expand(rows, -1, -1)], dim=2)
        copies = part.copies
        if copies is not None and scratch:
            copies = ([F.pad(k, (0, 0, 0, own)) for k in copies[0]],
                      [F.pad(v, (0, 0, 0, own)) for v in copies[1]])
        parts.append(replace(part, mask=mask, copies=copies, own=own, scratch=scratch))
    return replace(view, parts=parts)


@dataclass(frozen=True, eq=False)
class CachedAttention:
    """Attention under a view: an `AttentionFn` of one stream of tokens."""

    cache: KVCache
    view: KVView

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor | None]:
        """Queries (B, N, Q, d) or None; keys and values (B, N, S, d) of the pass's own tokens,
        which count where they stand behind the view."""
        ((q, k, v),) = qkv
        if q is None:
            return [None]
        seen = [_attend(self.cache, part, layer, q, k, v) for part in self.view.parts]
        if len(seen) == 1:
            return seen
        joined = torch.cat(seen)
        order = self.view.order
        return [joined if order is None else joined.index_select(0, order)]


def _attend(
    cache: KVCache, part: Part, layer: int, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    if isinstance(part.rows, Tensor) or part.rows != slice(None):
        q, k, v = q[part.rows], k[part.rows], v[part.rows]
    low, high, streams = part.start + cache.pivot, part.stop + cache.pivot, part.streams
    # The buffers are looked up when the pass runs: other streams may have made them grow.
    keys, values = cache.keys[layer], cache.values[layer]
    if part.copies is not None:
        low, high, streams = part.start, part.stop, slice(None)
        keys, values = part.copies[0][layer], part.copies[1][layer]
    end = high + part.own
    graph = any(x.requires_grad for x in (q, k, v, keys, values))
    if cache.int8:
        keys, values = (unpack(x[streams, :, low:high], k.dtype) for x in (keys, values))
        if part.own:
            keys, values = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
    elif part.own and (graph or not part.scratch):
        keys = torch.cat([keys[streams, :, low:high], k], dim=2)
        values = torch.cat([values[streams, :, low:high], v], dim=2)
    else:
        if part.own:
            keys[streams, :, high:end], values[streams, :, high:end] = k, v
        keys, values = keys[streams, :, low:end], values[streams, :, low:end]
    mask = None if part.mask is None else part.mask[:, None]
    return F.scaled_dot_product_attention(q, keys, values, mask)
