"""Rules at random, and an oracle that asks them instead of reading their structure."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from loci.rules.rule import (
    FOREVER,
    Coords,
    Kind,
    Rule,
    before,
    first,
    key,
    past,
    query,
    recent,
    same_frame,
)

ASKING = (Kind.CLEAN, Kind.GIST, Kind.NOISY, Kind.ACTION, Kind.EXECUTED)


def every(stride: int) -> Rule:
    """Every `stride`-th frame for ever: a function that declares how long it shows a key."""
    return Rule(lambda q, k, s: k.frame % stride == 0, f"every({stride})",
                lambda frame: torch.where(frame % stride == 0, FOREVER, -1))


def powers(base: int) -> Rule:
    """Frames 1, base, base^2, ... for ever."""
    def is_power(frame: Tensor) -> Tensor:
        return sum((frame == base**n for n in range(31)), torch.zeros_like(frame)).bool()

    return Rule(lambda q, k, s: is_power(k.frame), f"powers({base})",
                lambda frame: torch.where(is_power(frame), FOREVER, -1), "logarithmic")


def events(frames: frozenset[int], lasting: int) -> Rule:
    """A set of frames, each for so many frames."""
    def chosen(frame: Tensor) -> Tensor:
        return torch.isin(frame, torch.tensor(sorted(frames), dtype=torch.long))

    return Rule(
        lambda q, k, s: chosen(k.frame) & (q.now - k.frame < lasting), f"events({lasting})",
        lambda frame: torch.where(chosen(frame), frame + lasting - 1, -1), "constant",
    )


declared = st.one_of(
    st.builds(every, st.integers(1, 9)), st.builds(powers, st.integers(2, 4)),
    st.builds(events, st.frozensets(st.integers(0, 30), min_size=1, max_size=5),
              st.integers(1, 12)),
)
kinds = st.sets(st.sampled_from(ASKING), min_size=1, max_size=3)
structural = st.one_of(
    st.builds(first, st.integers(0, 4)), st.builds(recent, st.integers(1, 7)),
    st.just(past), st.just(before), st.just(same_frame),
    kinds.map(lambda chosen: query(*chosen)),
    st.sampled_from([key(Kind.CLEAN), key(Kind.GIST), key(Kind.CLEAN, Kind.GIST)]),
)
# Whatever has structure may be turned round as well.
exact = st.recursive(
    structural,
    lambda rules: st.one_of(
        st.builds(lambda a, b: a & b, rules, rules), st.builds(lambda a, b: a | b, rules, rules),
        st.builds(lambda a: ~a, rules),
    ),
    max_leaves=5,
)
rules = st.recursive(
    st.one_of(exact, declared),
    lambda parts: st.one_of(
        st.builds(lambda a, b: a & b, parts, parts), st.builds(lambda a, b: a | b, parts, parts)
    ),
    max_leaves=4,
)


def sees(rule: Rule, asker: Kind, kept: Kind, frame: Tensor, now: Tensor) -> Tensor:
    """Whether a query that knows of frame `now` sees a key of `frame`; a noisy one is of the
    frame after."""
    zero = torch.zeros_like(frame)
    chunk = asker not in (Kind.CLEAN, Kind.GIST)
    asking = Coords(now + (asker == Kind.NOISY), zero, zero, zero + int(asker), now, zero - ~chunk)
    return rule(asking, Coords(frame, zero, zero, zero + int(kept), frame, zero - 1))


def kept_after(rule: Rule, kept: Kind, frames: int, horizon: int) -> list[int]:
    """The frames, of `frames` written ones, that some query up to frame `horizon` still sees: one
    that knows of the last frame, or a frame that is written later."""
    frame = torch.arange(frames)[:, None]
    found = torch.zeros(frames, dtype=torch.bool)
    for asker in ASKING:
        first_asked = frames if asker in (Kind.CLEAN, Kind.GIST) else frames - 1
        now = torch.arange(first_asked, horizon)[None]
        found |= sees(rule, asker, kept, *torch.broadcast_tensors(frame, now)).any(1)
    return found.nonzero()[:, 0].tolist()
