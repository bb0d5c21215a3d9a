"""Action history: what a robot did, beside what it saw.

MemoryWAM's option (arXiv 2606.20562, Appendix, Training setup; used there for Swap T): clean tokens
of the actions that were carried out join C. The paper does not say how. Ours, beside any memory of
tokens or states with context C(t): the chunk e_t that was carried out after frame t goes once
through the action expert, at time 0, and

    e_t sees C(t) and itself,    C(t + 1) gains e_t,

for ever. So f_{t+1}, its gists and all that comes later see it; the noisy chunk after t, whose
answer it is, never does, and neither does the frame t + 1 while it is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from loci.errors import LociError
from loci.memory.base import Memory
from loci.memory.recurrent import Carry
from loci.rules.rule import Kind, Plan, Rule, Stack, before, key


@dataclass(frozen=True, kw_only=True)
class ActionHistory(Memory, name="action-history"):
    """All executed actions, beside what `memory` keeps. LociError for a memory that retrieves
    frames or sums gists up."""

    memory: Memory

    def __post_init__(self) -> None:
        name = type(self.memory).__name__
        if self.memory.executed:
            raise LociError(f"{name} keeps executed actions already; give the memory beneath it")
        if self.memory.joint or self.memory.retrieves:
            raise LociError(
                f"{name} chooses frames by camera poses, which a robot's frames lack; keep actions "
                "beside a memory of tokens or of states"
            )
        if isinstance(self.memory.plan().gist, Stack):
            raise LociError(
                f"{name} sums its gists up at the end of the cache, where executed actions stay; "
                "keep them beside another memory"
            )

    @property
    def executed(self) -> bool:
        return True

    @property
    def gists(self) -> int:
        return self.memory.gists

    def rule(self) -> Rule:
        return self.memory.rule() | key(Kind.EXECUTED) & before

    def plan(self) -> Plan:
        return replace(self.memory.plan(), executed=super().plan().executed)

    def carry(self, layer: int, width: int, heads: int, grid: tuple[int, int]) -> Carry | None:
        return self.memory.carry(layer, width, heads, grid)
