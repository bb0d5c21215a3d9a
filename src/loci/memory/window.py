"""Sliding window: the last R frames.

The rolling key-value cache of streaming video transformers. With R frames, the present one
included,

    C(t) = { f_j : t - R < j <= t },

and the cache holds R L tokens. A clean frame sees its window too, so that with each layer what it
knows reaches R - 1 frames further back, in ever weaker traces.
"""

from __future__ import annotations

from dataclasses import dataclass

from loci.errors import LociError
from loci.memory.base import Memory, together
from loci.rules.rule import Kind, Rule, key, recent


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(Memory, name="window"):
    """The last `window` frames R, the present one included."""

    window: int = 4

    def __post_init__(self) -> None:
        if self.window < 1:
            raise LociError("sliding window: it includes the present frame; use 1 or more")

    def rule(self) -> Rule:
        return key(Kind.CLEAN) & recent(self.window) | together
