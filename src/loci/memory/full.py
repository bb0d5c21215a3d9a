"""Full history: nothing is ever forgotten.

The memory of a causal video transformer whose key-value cache is never cut: each clean frame sees
itself and all frames before it, each chunk sees them all,

    C(t) = { f_j : j <= t }.

The cache holds L N tokens after N frames, and a chunk attends to all of them: the most that tokens
alone can keep, at the highest price.
"""

from __future__ import annotations

from dataclasses import dataclass

from loci.memory.base import Memory, together
from loci.rules.rule import Kind, Rule, key, past


@dataclass(frozen=True, kw_only=True)
class FullHistory(Memory, name="full"):
    """Every frame stays whole, for ever."""

    def rule(self) -> Rule:
        return key(Kind.CLEAN) & past | together
