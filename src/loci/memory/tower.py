"""Tower memory: gists of gists (ours).

Anchors A, R recent frames and M gists a frame as in `hybrid.py`, but gists do not stay for ever: a
later frame's gists sum them up, and theirs are summed up in turn. Count frames from 1 and let b be
the branching. The gists of frame n have the level l(n), the largest l such that b^l divides n, and
stand for the b^l frames that end with n, until frame

    e(n) = ceil(n / b^(l+1)) b^(l+1),

the next one of a higher level, has seen them: it and its own gists are the last that do. What a
chunk sees after N frames is one set of gists for each bead of an abacus that shows N in base b: at
most (b - 1) (1 + log_b N) of them, and exactly as many as the digits of N add up to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loci.errors import LociError
from loci.memory.base import Memory, together
from loci.rules.rule import FOREVER, Kind, Rule, first, key, past, query, recent


@dataclass(frozen=True, kw_only=True)
class Tower(Memory, name="tower"):
    """`anchors` first frames A, a window of `window` frames R, `gists_per_frame` gists M, of which
    `branching` sets b become one."""

    anchors: int = 1
    window: int = 1
    gists_per_frame: int = 4
    branching: int = 8

    def __post_init__(self) -> None:
        if self.anchors < 0:
            raise LociError("tower memory: anchors cannot be negative; use 0 or more")
        if self.window < 1:
            raise LociError("tower memory: the window includes the present frame; use 1 or more")
        if self.gists_per_frame < 1:
            raise LociError("tower memory: it is made of gists; use 1 or more a frame")
        if self.branching < 2:
            raise LociError("tower memory: one set cannot sum up fewer than 2; branch by 2 or more")

    @property
    def gists(self) -> int:
        return self.gists_per_frame

    def rule(self) -> Rule:
        base = self.branching
        before = Rule(
            lambda q, k, s: q.now < summed_up(k.frame, base), f"unsummed({base})",
            lambda frame: summed_up(frame, base) - 1, "logarithmic",
        )
        during = Rule(
            lambda q, k, s: q.now == summed_up(k.frame, base), f"summed({base})",
            lambda frame: summed_up(frame, base), "logarithmic",
        )
        frames = key(Kind.CLEAN) & (first(self.anchors) | recent(self.window))
        gists = key(Kind.GIST) & past & (before | query(Kind.CLEAN, Kind.GIST) & during)
        return frames | gists | together


def summed_up(frame: Tensor, branching: int) -> Tensor:
    """The frame e whose gists sum up those of `frame`, elementwise; both counted from 0."""
    number, span, power = frame + 1, torch.full_like(frame, branching), branching
    while power <= 2 * FOREVER:
        span = torch.where(number % power == 0, power * branching, span)
        power *= branching
    return (number // span + 1) * span - 1
