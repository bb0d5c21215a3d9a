"""Action history: what a robot did, beside what it saw.

MemoryWAM's option (arXiv 2606.20562, Appendix, Training setup; used there for Swap T): clean tokens
of the actions that were carried out join C. The paper does not say how. Ours, composed with any
memory of tokens or states with context C(t): the chunk e_t that was carried out after frame t goes
once through the action expert, at time 0, and

    e_t sees C(t) and itself,    C(t + 1) gains e_t,

for ever. So f_{t+1}, its gists and all that comes later see it; the noisy chunk after t, whose
answer it is, never does, and neither does the frame t + 1 while it is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass

from loci.memory.base import Memory, together
from loci.rules.rule import Kind, Rule, before, key


@dataclass(frozen=True, kw_only=True)
class ActionHistory(Memory, name="action-history"):
    """All executed actions, for ever: a part of a `Compose`d memory."""

    @property
    def executed(self) -> bool:
        return True

    def rule(self) -> Rule:
        return key(Kind.EXECUTED) & before | together
