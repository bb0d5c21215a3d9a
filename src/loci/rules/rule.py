"""Who sees whom: written once per mechanism, compiled into everything else.

A `Rule` answers one question about two tokens, given only their coordinates: may this query see
this key? From that single answer come the dense reference mask, the FlexAttention block mask, the
gather plan of training (`attention/`) and what a stream keeps (`retention.py`). That training and
streaming agree is therefore not a property of two pieces of code that must be kept in step.

Source: ours; the rules themselves are MemoryWAM's (arXiv 2606.20562, Fig. 3) and Echo-Memory's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor

from loci.errors import LociError


class Kind(IntEnum):
    """What a token is."""

    EMPTY = -1  # a free slot: nobody sees it
    CLEAN = 0  # a token of a frame that was really seen, or finally generated
    NOISY = 1  # a token being denoised
    GIST = 2  # one of the learnable tokens that summarise a frame
    ACTION = 3  # a robot action being denoised
    CONTEXT = 4  # a copy of the past that goes through the network beside a chunk
    EXECUTED = 5  # a robot action that was carried out after its frame


WRITTEN = (Kind.CLEAN, Kind.GIST)
"""Tokens of a frame that is being written."""
BEING_MADE = (Kind.NOISY, Kind.ACTION, Kind.CONTEXT)
"""Tokens that are there for the chunk that is being made, and then gone."""


@dataclass(frozen=True, eq=False)
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

    def shift(self, frames: Tensor | int) -> Coords:
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


FOREVER = 2**30
"""The last `now` of a key that is shown for ever."""
Growth = Literal["constant", "logarithmic", "linear"]
See = Callable[[Coords, Coords, "Tensor | int"], Tensor]
Interval = tuple[Tensor, Tensor]
Shown = Callable[[Kind, Kind, Tensor], list[Interval]]
# How many keys a rule, and what it hides, may show at a time.
Grows = Callable[[Kind, Kind], tuple[int, int]]
NEVER, CONSTANT, LOGARITHMIC, LINEAR = range(4)
CLASSES = ("never", "constant", "logarithmic", "linear")


class Rule:
    """A predicate over (query, key) coordinates. Rules combine with `&`, `|` and `~`.

    see: (query, key, stream) -> booleans, elementwise on broadcast fields; `stream` says which
    stream a query belongs to (a tensor that broadcasts too), and matters only to rules that look at
    retrieved frames. text: how the rule is printed.

    until: frames (F,) -> (F,), the last `now` at which a key of each frame is shown: `FOREVER`, or
    less than the frame's number for never. A stream keeps keys that long. The rules below know
    theirs, and `&`, `|`, `~` combine them; a function of your own has to declare it, or no stream
    can keep what it shows (`retention.py`). growth: how many keys stay at a time, "constant",
    "logarithmic" or "linear" in the frames.

    A rule of a memory looks at whole frames: it may not look at `row` or `col`, since all fast
    forms ask once for all tokens of a kind in a frame. Whatever a rule says, nobody sees a frame
    that comes after what it knows of (`Coords.now`), nor a free slot.
    """

    def __init__(
        self, see: See, text: str, until: Callable[[Tensor], Tensor] | None = None,
        growth: Growth = "linear",
    ):
        self._see = see
        self.text = text
        self._shown: Shown | None = None
        self._growth: Grows = lambda asker, kept: (CLASSES.index(growth), LINEAR)
        self._exact = False  # whether it shows a key all the time between the first and the last
        if until is not None:
            self._shown = lambda asker, kept, frame: [(frame, until(frame))]

    @classmethod
    def _of(cls, see: See, text: str, shown: Shown, growth: Grows, exact: bool = True) -> Rule:
        """A rule that knows what it shows when. exact: at all times of its intervals, rather than
        at some of them."""
        rule = cls(see, text)
        rule._shown, rule._growth, rule._exact = shown, growth, exact
        return rule

    def __call__(self, query: Coords, key: Coords, stream: Tensor | int = 0) -> Tensor:
        happened = (key.frame <= query.now) | _is(key.kind, BEING_MADE)
        return self._see(query, key, stream) & (key.kind >= 0) & happened

    def shown(self, asker: Kind, kept: Kind, frame: Tensor) -> list[Interval]:
        """When queries of kind `asker` see keys of kind `kept` of frames `frame` (F,): intervals of
        `now`, first and last, (F,) each; one that ends before it begins is empty.

        Raises LociError for a function that does not declare how long it shows a key.
        """
        if self._shown is None:
            raise LociError(
                f"the rule '{self.text}' is a function that does not say how long it shows a key, "
                "so that a stream cannot know what to keep: declare it, Rule(see, text, until=...)"
            )
        return self._shown(asker, kept, frame)

    def growth(self, asker: Kind, kept: Kind) -> int:
        """How the number of keys that `shown` keeps in sight grows: NEVER, CONSTANT, LOGARITHMIC or
        LINEAR, at most."""
        return self._growth(asker, kept)[0]

    def __and__(self, other: Rule) -> Rule:
        def shown(asker: Kind, kept: Kind, frame: Tensor) -> list[Interval]:
            # What one side never shows, the other need not declare.
            if growth(asker, kept)[0] == NEVER:
                return []
            left, right = self.shown(asker, kept, frame), other.shown(asker, kept, frame)
            both = ((torch.maximum(a, c), torch.minimum(b, d)) for a, b in left for c, d in right)
            return [(begin, end) for begin, end in both if bool((begin <= end).any())]

        def growth(asker: Kind, kept: Kind) -> tuple[int, int]:
            (a, not_a), (b, not_b) = self._growth(asker, kept), other._growth(asker, kept)
            return min(a, b), max(not_a, not_b)

        return Rule._of(
            lambda q, k, s: self._see(q, k, s) & other._see(q, k, s),
            f"({self.text} & {other.text})", shown, growth, self._exact and other._exact,
        )

    def __or__(self, other: Rule) -> Rule:
        def growth(asker: Kind, kept: Kind) -> tuple[int, int]:
            (a, not_a), (b, not_b) = self._growth(asker, kept), other._growth(asker, kept)
            return max(a, b), min(not_a, not_b)

        return Rule._of(
            lambda q, k, s: self._see(q, k, s) | other._see(q, k, s),
            f"({self.text} | {other.text})",
            lambda *asked: self.shown(*asked) + other.shown(*asked), growth,
            self._exact and other._exact,
        )

    def __invert__(self) -> Rule:
        def shown(asker: Kind, kept: Kind, frame: Tensor) -> list[Interval]:
            if not self._exact:
                raise LociError(
                    f"what '{self.text}' shows is decided by a function or by data, so that a "
                    f"stream cannot know how long '~{self.text}' shows a key: write a rule of what "
                    "is to be seen, and declare it, Rule(see, text, until=...)"
                )
            left = [(frame, torch.full_like(frame, FOREVER))]
            for begin, end in self.shown(asker, kept, frame):
                # What is left before the interval and after it; an empty one takes nothing away.
                empty = begin > end
                begin, end = begin.masked_fill(empty, FOREVER + 1), end.masked_fill(empty, FOREVER)
                parts = [(a, torch.minimum(b, begin - 1)) for a, b in left]
                parts += [(torch.maximum(a, end + 1), b) for a, b in left]
                left = [(a, b) for a, b in parts if bool((a <= b).any())]
            return left

        return Rule._of(
            lambda q, k, s: ~self._see(q, k, s), f"~{self.text}", shown,
            lambda asker, kept: self._growth(asker, kept)[::-1],
        )

    def __repr__(self) -> str:
        return self.text

    def mask(self, query: Coords, key: Coords) -> Tensor:
        """The dense reference mask of queries (..., Q) and keys (..., K): (..., Q, K) booleans, or
        (B, Q, K) where frames were retrieved."""
        q, k = query._map(lambda f: f[..., :, None]), key._map(lambda f: f[..., None, :])
        if query.selected is None:
            return self(q, k)
        stream = torch.arange(len(query.selected), device=query.frame.device)[:, None, None]
        return self(q, k, stream).expand(len(stream), len(query), len(key))


def query(*kinds: Kind) -> Rule:
    """The query is of one of these kinds."""
    return _whether(
        lambda q, k, s: _is(q.kind, kinds), f"query({_names(kinds)})", lambda a, k: a in kinds
    )


def key(*kinds: Kind) -> Rule:
    """The key is of one of these kinds."""
    return _whether(
        lambda q, k, s: _is(k.kind, kinds), f"key({_names(kinds)})", lambda a, k: k in kinds
    )


def first(count: int) -> Rule:
    """The key belongs to one of the first `count` frames, and lies in the past."""
    return _within(
        lambda q, k, s: (k.frame < count) & (k.frame <= q.now), f"first({count})",
        lambda frame: torch.where(frame < count, FOREVER, -1), CONSTANT, LINEAR,
    )


def recent(count: int) -> Rule:
    """The key belongs to one of the last `count` frames, the present one included."""
    return _within(
        lambda q, k, s: (k.frame > q.now - count) & (k.frame <= q.now), f"recent({count})",
        lambda frame: frame + count - 1, CONSTANT, LINEAR,
    )


def _always(frame: Tensor) -> Tensor:
    return torch.full_like(frame, FOREVER)


def _within(
    see: See, text: str, until: Callable[[Tensor], Tensor], growth: int, hidden: int,
    after: int = 0,
) -> Rule:
    """A rule that shows a key from `after` frames after its own on, until `until`."""
    return Rule._of(
        see, text, lambda asker, kept, frame: [(frame + after, until(frame))],
        lambda asker, kept: (growth, hidden),
    )


def _whether(see: See, text: str, holds: Callable[[Kind, Kind], bool]) -> Rule:
    """A rule of the two kinds alone."""
    return Rule._of(
        see, text,
        lambda asker, kept, frame: [(frame, _always(frame))] if holds(asker, kept) else [],
        lambda asker, kept: (LINEAR, NEVER) if holds(asker, kept) else (NEVER, LINEAR),
    )


past = _within(lambda q, k, s: k.frame <= q.now, "past", _always, LINEAR, NEVER)
before = _within(lambda q, k, s: k.frame < q.now, "before", _always, LINEAR, CONSTANT, after=1)
# The number of a context frame is a place beside the chunk, and says nothing of the past.
same_frame = Rule._of(
    lambda q, k, s: (k.frame == q.frame) & (q.kind != int(Kind.CONTEXT)), "same_frame",
    lambda asker, kept, frame: [] if asker in (Kind.NOISY, Kind.CONTEXT) else [(frame, frame)],
    lambda asker, kept: (
        (NEVER, LINEAR) if asker in (Kind.NOISY, Kind.CONTEXT) else (CONSTANT, LINEAR)
    ),
)
# Groups are denoised together: what is kept belongs to none.
same_group = Rule._of(
    lambda q, k, s: (k.group == q.group) & (k.group >= 0), "same_group",
    lambda asker, kept, frame: [], lambda asker, kept: (NEVER, LINEAR),
)


def _retrieved(q: Coords, k: Coords, stream: Tensor | int) -> Tensor:
    if q.selected is None:
        return (k.frame < 0) & (q.frame < 0)
    groups, frames = q.selected.shape[-2:]
    group = q.group.clamp(0, groups - 1)
    seen = q.selected[stream, group, k.frame.clamp(0, frames - 1)]
    return seen & (q.group >= 0) & (k.frame <= q.now)


# Any chunk may retrieve any frame; frames that are being written retrieve none.
retrieved = Rule._of(
    _retrieved, "retrieved",
    lambda asker, kept, frame: [] if asker in WRITTEN else [(frame, _always(frame))],
    lambda asker, kept: (NEVER, LINEAR) if asker in WRITTEN else (LINEAR, LINEAR), exact=False,
)


def _is(kind: Tensor, kinds: tuple[Kind, ...]) -> Tensor:
    answer = kind == int(kinds[0])
    for other in kinds[1:]:
        answer = answer | (kind == int(other))
    return answer


def _names(kinds: tuple[Kind, ...]) -> str:
    return ", ".join(k.name.lower() for k in kinds)
