"""No memory: a chunk continues the last frame and knows nothing else.

The floor of every study (Echo-Memory's "no memory" row).
"""

from __future__ import annotations

from dataclasses import dataclass

from loci.memory.base import Memory, together
from loci.rules.rule import Kind, Rule, key, recent


@dataclass(frozen=True, kw_only=True)
class NoMemory(Memory, name="none"):
    """Each chunk sees the frame before it, for continuity."""

    def rule(self) -> Rule:
        return key(Kind.CLEAN) & recent(1) | together
