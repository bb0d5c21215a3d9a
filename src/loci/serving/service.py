"""What is served: a model, the pool of its sessions, and how requests are carried out together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from loci import __version__
from loci.errors import LociError
from loci.serving.options import ServeOptions
from loci.serving.pool import Pool, Stream, allocated
from loci.serving.protocol import Message

Answer = dict[str, Any]


@dataclass(eq=False)
class Call:
    """A request that was read and checked, for one session.

    key: calls of equal keys may run together; None: alone. number: of the request, whose answer is
    then kept. times: milliseconds of each stage. answer: once it is there, or the error that came
    instead.
    """

    stream: Stream
    op: str
    key: Hashable = None
    given: Any = None
    number: int | None = None
    times: dict[str, float] = field(default_factory=dict)
    answer: Answer | None = None
    error: BaseException | None = None


class Service(ABC):
    """A model at work. `ops`: what it can be asked for beside `CONTROL`, the first of them by
    default where `default` says so."""

    ops: tuple[str, ...]
    default: str | None = None
    pool: Pool

    def __init__(self, options: ServeOptions, name: str):
        self.options, self.name = options, name

    @abstractmethod
    def metadata(self) -> Answer:
        """What a client is told of the model when it connects."""

    @abstractmethod
    def read(self, stream: Stream, op: str, message: Message) -> list[Call]:
        """The calls that a request stands for, one after the other. LociError, before anything is
        changed, for a request that cannot be carried out."""

    @abstractmethod
    def run(self, calls: Sequence[Call]) -> None:
        """Carry out calls of one key and of different sessions, at most as many as there are slots:
        each has its answer or its error then."""

    def held(self, calls: Sequence[Call]) -> list[Call]:
        """The calls whose sessions are in slots now, in the order of these: what lies side by side
        needs no copy. The others have their error."""
        for call in calls:
            try:
                self.pool.hold([call.stream])
            except LociError as error:
                call.error = error
        held = [call for call in calls if call.error is None]
        return sorted(held, key=lambda call: call.stream.slot or 0)

    def together(
        self, calls: Sequence[Call], work: Callable[[Sequence[Call]], None], writes: bool = True
    ) -> None:
        """Work on several calls at once. Where one of them is refused, which changes nothing, each
        is worked on by itself; where work that writes breaks off, what its sessions hold is
        lost."""
        if not calls:
            return
        try:
            work(calls)
        except LociError as error:
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:
                self.together([call], work, writes)
        except Exception as error:  # noqa: BLE001 (each client is told, and the others go on)
            for call in calls:
                call.error, call.stream.broken = error, writes

    def check_room(self, stream: Stream, more: int) -> None:
        """LociError where so many more frames would outgrow the slot of a session."""
        limit = self.options.frames
        if limit is not None and self.limited and stream.frames + more > limit:
            raise LociError(
                f"this session has seen {stream.frames} frames and its slot holds {limit}; reset "
                "it, or start the server with more --frames"
            )

    @property
    def limited(self) -> bool:
        """Whether memory grows with the frames."""
        return not self.pool.memory.stream.model.config.memory.bounded


def slots(options: ServeOptions, make: Callable[[int], Any], beside: int = 0) -> int:
    """How many slots the budget allows, of memories that `make` makes for so many streams, and
    bytes beside them. LociError where it is not one."""
    each = allocated(make(1)) + beside
    budget = int(options.memory * 1e9)
    count = min(options.slots, budget // max(1, each))
    if count < 1:
        raise LociError(
            f"a session of {options.frames} frames takes {each / 1e9:.2f} GB and the budget is "
            f"{options.memory:g} GB; give more --memory or fewer --frames"
        )
    return count


def common(service: Service, kind: str, config: Any) -> Answer:
    """What all services tell of themselves."""
    return {
        "server": "loci", "version": __version__, "model": service.name, "kind": kind,
        "config": config.hash(), "seed": service.options.seed,
        "frames": service.options.frames if service.limited else None,
        "ops": list(service.ops), "resumes": service.options.keep_lost > 0,
    }
