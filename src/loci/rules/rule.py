"""Who sees whom: written once per mechanism, compiled into everything else.

A `Rule` answers one question about two tokens, given only their coordinates: may this query see
this key? From that single answer come the dense reference mask, the FlexAttention block mask, the
windowed training form (`attention.py`) and the streaming cache's plan (`cache.py`). That training
and streaming agree is therefore not a property of two pieces of code that must be kept in step.

Source: ours; the rules themselves are MemoryWAM's (arXiv 2606.20562, Fig. 3) and Echo-Memory's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class Kind(IntEnum):
    """What a token is."""

    EMPTY = -1  # a free slot: nobody sees it
    CLEAN = 0  # a token of a frame that was really seen, or finally generated
    NOISY = 1  # a token being denoised
    GIST = 2  # one of the learnable tokens that summarise a frame
    ACTION = 3  # a robot action being denoised
    CONTEXT = 4  # a copy of the past that goes through the network beside a chunk
    EXECUTED = 5  # a robot action that was carried out after its frame


@dataclass(frozen=True)
class Coords:
    """Where tokens stand; every field an integer tensor of one common shape (..., S).

    `frame`, `row`, `col`: the latent frame and the place in its grid (gists count in `col`).
    `kind`: see `Kind`.
    `now`: the last frame that this token may know of. A clean frame knows itself; a chunk that is
    being generated knows the frame before it.
    `group`: tokens that are denoised together share a number; -1 for all others.
    `selected`: (B, G, F) booleans, the frames that a mechanism retrieved for each group of each
    stream. It is data, shared by all tokens, and None where nothing is retrieved.
    """

    frame: Tensor
    row: Tensor
    col: Tensor
    kind: Tensor
    now: Tensor
    group: Tensor
    selected: Tensor | None = None

    @staticmethod
    def grid(
        frames: Tensor, shape: tuple[int, int], kind: Kind, now: Tensor, group: Tensor
    ) -> Coords:
        """Coordinates of whole frames: `frames`, `now`, `group` (F,); the result (F * h * w,)."""
        rows, cols = shape
        per = rows * cols
        place = torch.arange(per, device=frames.device).repeat(len(frames))
        return Coords(
            frame=frames.repeat_interleave(per),
            row=place // cols,
            col=place % cols,
            kind=torch.full_like(place, int(kind)),
            now=now.repeat_interleave(per),
            group=group.repeat_interleave(per),
        )

    def __len__(self) -> int:
        return self.frame.shape[-1]

    def __getitem__(self, index: slice | Tensor) -> Coords:
        return self._map(lambda field: field[index])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Coords:
        changed = {
            f.name: function(getattr(self, f.name)) for f in fields(self) if f.name != "selected"
        }
        return replace(self, **changed)

    def to(self, device: torch.device | str) -> Coords:
        moved = self._map(lambda field: field.to(device))
        if self.selected is None:
            return moved
        return replace(moved, selected=self.selected.to(device))

    def later(self, frames: Tensor | int) -> Coords:
        """The same tokens so many frames later; a tensor (B, 1) gives each stream its own shift."""
        shape = (self.frame + frames).shape
        moved = self._map(lambda field: field.expand(shape))
        return replace(moved, frame=moved.frame + frames, now=moved.now + frames)

    def with_selected(self, selected: Tensor | None) -> Coords:
        """The same places, knowing which frames were retrieved."""
        return replace(self, selected=selected)

    @staticmethod
    def cat(parts: Sequence[Coords]) -> Coords:
        """Join along the token axis; the retrieved frames of the first part that has any stay."""
        selected = next((p.selected for p in parts if p.selected is not None), None)
        names = [f.name for f in fields(Coords) if f.name != "selected"]
        joined = {n: torch.cat([getattr(p, n) for p in parts], dim=-1) for n in names}
        return Coords(**joined, selected=selected)


class Rule:
    """A predicate over (query, key) coordinates. Rules combine with `&`, `|` and `~`.

    The function works elementwise on broadcast fields; `stream` says which stream a query belongs
    to (a tensor that broadcasts too), and matters only to rules that look at retrieved frames.
    Rules of a memory look at whole frames: the fast forms ask once for all tokens of a kind in a
    frame, so that a rule that looks at `row` or `col` holds in the dense mask alone.
    """

    def __init__(self, see: Callable[[Coords, Coords, Tensor | int], Tensor], text: str):
        self._see = see
        self.text = text

    def __call__(self, query: Coords, key: Coords, stream: Tensor | int = 0) -> Tensor:
        return self._see(query, key, stream) & (key.kind >= 0)

    def __and__(self, other: Rule) -> Rule:
        return Rule(
            lambda q, k, s: self._see(q, k, s) & other._see(q, k, s),
            f"({self.text} & {other.text})",
        )

    def __or__(self, other: Rule) -> Rule:
        return Rule(
            lambda q, k, s: self._see(q, k, s) | other._see(q, k, s),
            f"({self.text} | {other.text})",
        )

    def __invert__(self) -> Rule:
        return Rule(lambda q, k, s: ~self._see(q, k, s), f"~{self.text}")

    def __repr__(self) -> str:
        return self.text

    def mask(self, query: Coords, key: Coords) -> Tensor:
        """The dense reference mask, (Q, K) booleans, or (B, Q, K) where frames were retrieved."""
        q, k = query._map(lambda f: f[..., :, None]), key._map(lambda f: f[..., None, :])
        if query.selected is None:
            return self(q, k)
        stream = torch.arange(len(query.selected), device=query.frame.device)[:, None, None]
        return self(q, k, stream).expand(len(stream), len(query), len(key))

    def block_mask(self, query: Coords, key: Coords) -> BlockMask:
        """The same rule as a FlexAttention BlockMask, on the device of the coordinates."""
        from torch.nn.attention.flex_attention import create_block_mask

        def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return self(query[q], key[k], b)

        streams = None if query.selected is None else len(query.selected)
        device = str(query.frame.device)
        return create_block_mask(mask_mod, streams, None, len(query), len(key), device=device)


def query(*kinds: Kind) -> Rule:
    """The query is of one of these kinds."""
    return Rule(lambda q, k, s: _is(q.kind, kinds), f"query({_names(kinds)})")


def key(*kinds: Kind) -> Rule:
    """The key is of one of these kinds."""
    return Rule(lambda q, k, s: _is(k.kind, kinds), f"key({_names(kinds)})")


def first(count: int) -> Rule:
    """The key belongs to one of the first `count` frames, and lies in the past."""
    return Rule(lambda q, k, s: (k.frame < count) & (k.frame <= q.now), f"first({count})")


def recent(count: int) -> Rule:
    """The key belongs to one of the last `count` frames, the present one included."""
    return Rule(
        lambda q, k, s: (k.frame > q.now - count) & (k.frame <= q.now), f"recent({count})"
    )


past = Rule(lambda q, k, s: k.frame <= q.now, "past")
before = Rule(lambda q, k, s: k.frame < q.now, "before")
same_frame = Rule(lambda q, k, s: k.frame == q.frame, "same_frame")
same_group = Rule(lambda q, k, s: (k.group == q.group) & (k.group >= 0), "same_group")


def _retrieved(q: Coords, k: Coords, stream: Tensor | int) -> Tensor:
    if q.selected is None:
        return (k.frame < 0) & (q.frame < 0)
    groups, frames = q.selected.shape[-2:]
    group = q.group.clamp(0, groups - 1)
    seen = q.selected[stream, group, k.frame.clamp(0, frames - 1)]
    return seen & (q.group >= 0) & (k.frame <= q.now)


retrieved = Rule(_retrieved, "retrieved")


def _is(kind: Tensor, kinds: tuple[Kind, ...]) -> Tensor:
    answer = kind == int(kinds[0])
    for other in kinds[1:]:
        answer = answer | (kind == int(other))
    return answer


def _names(kinds: tuple[Kind, ...]) -> str:
    return ", ".join(k.name.lower() for k in kinds)


@dataclass(frozen=True)
class Keep:
    """How long the tokens of one kind stay: those of the first `anchors` frames for ever, all
    others while they are among the last `recent` frames (None: all of them for ever)."""

    anchors: int
    recent: int | None

    @property
    def growth(self) -> str:
        """How what is held grows with the frames: "constant", "logarithmic" or "linear"."""
        return "linear" if self.recent is None else "constant"

    def held(self, frames: int) -> int:
        """Of `frames` frames, those whose tokens are held."""
        return frames if self.recent is None else min(frames, self.anchors + self.recent)

    def peak(self, frames: int) -> int:
        """The most that are held on the way there."""
        return self.held(frames)


@dataclass(frozen=True)
class Stack(Keep):
    """Tokens that stay until a later frame sums them up: those of frame n, counted from 1 and
    divisible by base^l but not by base^(l+1), until the next multiple of base^(l+1). After N frames
    as many are held as the digits of N in this base add up to, the widest sums first."""

    anchors: int = 0
    recent: int | None = None
    base: int = 2

    @property
    def growth(self) -> str:
        return "logarithmic"

    def held(self, frames: int) -> int:
        total = 0
        while frames:
            frames, digit = divmod(frames, self.base)
            total += digit
        return total

    def peak(self, frames: int) -> int:
        # The number itself, or one that gives up a digit so that all below it are the largest.
        most, power = self.held(frames), 1
        while power <= frames:
            most = max(most, self.held(frames // power * power - 1))
            power *= self.base
        return most

    def last(self, frame: Tensor) -> Tensor:
        """The frame that sums up the tokens of `frame`, elementwise; both counted from 0."""
        number, span, power = frame + 1, torch.full_like(frame, self.base), self.base
        while power <= 2 * FAR:
            span = torch.where(number % power == 0, power * self.base, span)
            power *= self.base
        return (number // span + 1) * span - 1


@dataclass(frozen=True)
class Plan:
    """What a stream has to keep so that every later query finds what the rule lets it see."""

    clean: Keep
    gist: Keep
    executed: Keep = Keep(anchors=0, recent=0)


FAR = 2**30  # a frame number at the end of time
NEIGHBOURS = 64  # frames in the middle of time that are asked, one after the other


def compile_plan(rule: Rule, reach: int = 4096) -> Plan:
    """Read the cache's plan off the rule by asking it about tokens far apart.

    A key that is still visible `reach` frames later is kept for ever; so is an early key that a
    query at the end of time sees. What may be retrieved counts as visible. `Memory.plan` is what a
    mechanism's cache follows: this, unless it knows better.
    """
    kinds = (Kind.CLEAN, Kind.GIST, Kind.EXECUTED)
    return Plan(*(_keep(rule, kind, reach) for kind in kinds))


def _keep(rule: Rule, kind: Kind, reach: int) -> Keep:
    steps = torch.arange(reach)
    # From the very end of time, which of the first frames are still in sight?
    early = _seen_later(rule, kind, steps, torch.full_like(steps, FAR))
    # And how long does a frame in the middle of time stay in sight? Several in a row are asked,
    # since a rule may treat frames differently by their number; the longest answer counts.
    middle = FAR // 2 + torch.arange(NEIGHBOURS)[:, None]
    late = _seen_later(rule, kind, middle, middle + steps).any(0)
    # So are frames of a round number: where only they stay, nobody is let go.
    rare = torch.tensor(_round_numbers())
    lasting = 0 if not late.any() else int(late.nonzero().max()) + 1
    if lasting == reach or early.all() or _seen_later(rule, kind, rare, rare + reach - 1).any():
        return Keep(anchors=0, recent=None)
    return Keep(anchors=0 if not early.any() else int(early.nonzero().max()) + 1, recent=lasting)


def _round_numbers() -> list[int]:
    """Late frames that are a power of a small number, counted from 0 or from 1."""
    powers = {base**n for base in range(2, 65) for n in range(2, 30)}
    return [frame for p in powers if FAR // 4096 < p < FAR // 2 for frame in (p, p - 1)]


def _seen_later(rule: Rule, kind: Kind, frame: Tensor, now: Tensor) -> Tensor:
    """Does any query that knows of frame `now` see a key of frame `frame`? Elementwise."""
    zero = torch.zeros_like(frame)
    key_ = Coords(frame, zero, zero, zero + int(kind), frame, zero - 1)
    seen = torch.zeros_like(now, dtype=torch.bool)
    for asker in (Kind.CLEAN, Kind.GIST, Kind.NOISY, Kind.ACTION, Kind.EXECUTED):
        ahead = now + (asker == Kind.NOISY)
        group = zero if asker not in (Kind.CLEAN, Kind.GIST) else zero - 1
        everything = torch.ones(1, 1, 1, dtype=torch.bool)
        asking = Coords(ahead, zero, zero, zero + int(asker), now, group, everything)
        seen = seen | rule(asking, key_)
    return seen
