"""Several memories as one: their rules united, their states and stores side by side.

    Compose(members=(Hybrid(), GatedDelta()))         gists, and a state that every block carries
    Compose(members=(Joint(frames=5), BlockSSM(...)))   Echo-Memory's released state-space row
    Compose(members=(Hybrid(), ActionHistory()))        what was done, beside what was seen

What a frame or a chunk sees is what any member shows. Blocks carry the states of all members, each
under its member's name, and add up what these read. What there can be one of only, one member may
bring: gists, joint frames, frames that are retrieved from the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_

from torch import nn

from loci.errors import LociError
from loci.memory.base import Memory
from loci.memory.ports import Ports
from loci.memory.recurrent import RecurrentState
from loci.memory.stores import Setting, Store
from loci.rules.rule import CLASSES, Rule


@dataclass(frozen=True, kw_only=True)
class Compose(Memory, name="compose"):
    """`members` side by side. LociError for fewer than two, and where two bring what there can be
    one of."""

    members: tuple[Memory, ...]

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise LociError(f"{len(self.members)} memories compose nothing; give two or more")
        for what, brings in (
            ("gists", lambda part: part.gists), ("joint frames", lambda part: part.joint),
            ("executed actions", lambda part: part.executed),
            ("frames from the cache", lambda part: part.retrieves and not part.joint),
            ("a share of dropped frames", lambda part: part.drop),
        ):
            names = [part.type_name for part in self.parts if brings(part)]
            if len(names) > 1:
                raise LociError(f"{' and '.join(map(str, names))} both bring {what}; keep one")

    @property
    def parts(self) -> tuple[Memory, ...]:
        return tuple(part for member in self.members for part in member.parts)

    @property
    def gists(self) -> int:
        return sum(part.gists for part in self.parts)

    @property
    def executed(self) -> bool:
        return any(part.executed for part in self.parts)

    @property
    def retrieves(self) -> int:
        return max(part.retrieves for part in self.parts)

    @property
    def joint(self) -> bool:
        return any(part.joint for part in self.parts)

    @property
    def placement(self) -> str:
        return super().placement if self.beside is None else self.beside.placement

    @property
    def restarts(self) -> bool:
        return any(part.restarts for part in self.parts)

    @property
    def mixed(self) -> int:
        return 0 if self.beside is None else self.beside.mixed

    def mixed_after(self, written: int) -> int:
        return 0 if self.beside is None else self.beside.mixed_after(written)

    @property
    def shrink(self) -> int:
        return 1 if self.beside is None else self.beside.shrink

    @property
    def growth(self) -> str:
        """That of the member that grows most, or of their rules together."""
        classes = [super().growth, *(part.growth for part in self.parts)]
        return max(classes, key=CLASSES.index)

    def mixer(self, channels: int) -> nn.Module | None:
        return None if self.beside is None else self.beside.mixer(channels)

    def summary(self, width: int) -> nn.Module | None:
        return None if self.beside is None else self.beside.summary(width)

    @property
    def drop(self) -> float:
        return max(part.drop for part in self.parts)

    @property
    def wants(self) -> frozenset[str]:
        return frozenset().union(*(part.wants for part in self.parts))

    def ports(self, channels: int) -> Ports:
        return reduce(or_, (part.ports(channels) for part in self.parts))

    def rule(self) -> Rule:
        return reduce(or_, (part.rule() for part in self.parts))

    def states(
        self, layer: int, width: int, heads: int, grid: tuple[int, int]
    ) -> Mapping[str, RecurrentState]:
        """By the names of the members' types; the second of a type is called NAME-2."""
        found: dict[str, RecurrentState] = {}
        seen: Counter[str] = Counter()
        for part in self.parts:
            name = part.type_name or type(part).__name__
            seen[name] += 1
            name += f"-{seen[name]}" if seen[name] > 1 else ""
            for own, state in part.states(layer, width, heads, grid).items():
                found[f"{name}-{own}" if own else name] = state
        return found

    def stores(self, setting: Setting) -> list[Store]:
        stores = [store for part in self.parts for store in part.stores(setting)]
        names = [store.name for store in stores]
        if len(set(names)) < len(names):
            raise LociError(f"two stores have one name, of {', '.join(names)}; rename one")
        return stores
