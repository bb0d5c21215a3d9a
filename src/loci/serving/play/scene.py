"""What goes on while people do things on the page: who goes along, and a log of all that was done.

The log is the saved game: models are deterministic, so that doing it again gives the same pictures
and the same memories.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from torch import Tensor

from loci.errors import LociError, did_you_mean

# Companions at once: each of them takes its time with every step.
MOST = 4
Event = dict[str, Any]


@dataclass(frozen=True)
class Moment:
    """What a step came to. times in milliseconds, by stage; looked: the share of attention on each
    frame of the past, -1 for what was made of several."""

    times: Mapping[str, float]
    looked: Mapping[int, float]


@dataclass(frozen=True, eq=False)
class Shown:
    """What the page is to show next: of companion `number` (None: the truth) the pictures (n, H, W,
    3) uint8 of the last step, or of all that was where `whole`. frames: which of them are frames of
    its memory (None: all)."""

    number: int | None
    pictures: Tensor
    moment: Moment | None = None
    whole: bool = False
    frames: Sequence[int] | None = None


class Companion(Protocol):
    """Somebody who goes along, with a memory."""

    name: str

    def fork(self) -> Self:
        """Another one with the same past."""
        ...


Member = TypeVar("Member", bound=Companion)


class Scene(ABC, Generic[Member]):
    """A walk, or an episode at a task.

    load: a model by its name; names: of those that can go along; first: who does from the start.
    `begins`: what people do to begin one; `deeds`: what they do then. `companions`: those who go
    along, each by a number of its own.
    """

    begins: ClassVar[tuple[str, ...]]
    deeds: ClassVar[Mapping[str, Callable[[Any, Event], Iterator[Shown]]]]

    def __init__(self, load: Callable[[str], Any], names: Sequence[str], first: Sequence[str]):
        self.load, self.names, self.first = load, list(names), list(first)
        self.log: list[Event] = []
        self.companions: dict[int, Member] = {}
        self._number = 0

    @abstractmethod
    def begin(self, event: Event) -> Iterator[Shown]:
        """Begin as an event says. LociError for what cannot be."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Where everybody is, and what they hold, as JSON has it."""

    @abstractmethod
    def shown(self, number: int) -> Shown:
        """All that a companion saw or imagined."""

    def do(self, event: Event) -> Iterator[Shown]:
        """Carry out one of the deeds, piece by piece; it is in the log once it is done."""
        yield from self.deeds[event["do"]](self, event)
        self.note(event)

    def note(self, event: Event) -> None:
        """Write a deed down."""
        self.log.append(event)

    def join(self, companion: Member) -> int:
        """The number that a new companion goes along under."""
        self._number += 1
        self.companions[self._number] = companion
        return self._number

    def check_room(self) -> None:
        if len(self.companions) >= MOST:
            raise LociError(f"{MOST} memories at once are enough; remove one")

    def named(self, event: Event) -> str:
        """The model that an event names."""
        name = str(event.get("name"))[:80]
        if name not in self.names:
            raise LociError(f"no model '{name}' here{did_you_mean(name, self.names)}")
        return name

    def numbered(self, event: Event) -> int:
        number = event.get("number")
        if not isinstance(number, int) or number not in self.companions:
            raise LociError(f"no memory number {str(number)[:20]}; there are "
                            f"{', '.join(map(str, self.companions))}")
        return number

    def companion(self, event: Event) -> Member:
        return self.companions[self.numbered(event)]

    def fork(self, event: Event) -> Iterator[Shown]:
        companion = self.companion(event)
        self.check_room()
        yield self.shown(self.join(companion.fork()))

    def remove(self, event: Event) -> Iterator[Shown]:
        if len(self.companions) < 2:
            raise LociError("somebody has to go along; add another memory first")
        del self.companions[self.numbered(event)]
        return iter(())


def whole(event: Event, name: str, most: int, least: int = 0) -> int:
    """A whole number of an event, from `least` to below `most`."""
    value = event.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < most:
        raise LociError(
            f"{name} is {str(value)[:40]}; give a whole number from {least} to {most - 1}"
        )
    return value
