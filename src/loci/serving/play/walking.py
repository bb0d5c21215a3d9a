"""What people can do on the page: a walk, companions along it, and a log of all that was done.

The log is the saved game: models are deterministic, so that playing it again gives the same frames
and the same memories.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loci.errors import LociError, did_you_mean
from loci.models.world import WorldModel
from loci.serving.play.companion import Companion, Moment
from loci.serving.play.walk import Walk
from loci.worlds.rooms.room import COLORS, Room, sample_room

# Companions at once: each of them takes its time with every step.
MOST = 4
# A walk that is longer is no longer played but trained on.
LONGEST = 2000
Event = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Shown:
    """What the page is to show next: of companion `number` (None: the truth) the pictures (n, H, W,
    3) of the last stretch, or of the whole walk where `whole`."""

    number: int | None
    pictures: Tensor
    moment: Moment | None = None
    whole: bool = False


class Game:
    """load: a model by its name; names: of those that can be chosen, the first of them goes along
    from the start."""

    def __init__(self, load: Callable[[str], WorldModel], names: list[str]):
        self.load, self.names = load, names
        self.log: list[Event] = []
        self.walk: Walk | None = None
        self.companions: dict[int, Companion] = {}
        self._number = 0

    def do(self, event: Event) -> Iterator[Shown]:
        """Carry out what somebody does, piece by piece; it is in the log once it is done.
        LociError, with nothing changed, for what cannot be done."""
        what = event.get("do")
        if not isinstance(what, str) or what not in DEEDS:
            raise LociError(f"nothing to do called '{str(what)[:40]}'"
                            f"{did_you_mean(str(what)[:40], DEEDS)}")
        if self.walk is None and what not in ("room", "picture"):
            raise LociError("no walk has begun; choose a room")
        yield from DEEDS[what](self, event)
        self.log.append(event)

    def state(self) -> dict[str, Any]:
        """Where everybody is, and what they hold, as JSON has it."""
        walk = self._walk
        config = next(iter(self.companions.values())).model.config
        ways = walk.poses[:, [0, 2, 0, 2], [3, 3, 2, 2]]  # x, z, and where the view goes
        seen = [s.seen for s in walk.stretches for _ in range(len(s.poses))]
        return {
            "room": None if walk.room is None else plan(walk.room),
            "height": config.camera.height, "width": config.camera.width,
            "fov": config.camera.fov, "way": ways.tolist(), "seen": seen, "log": self.log,
            "companions": [
                {"number": number, "name": one.name, "held": one.held, "kept": one.kept}
                for number, one in self.companions.items()
            ],
        }

    def _room(self, event: Event) -> Iterator[Shown]:
        seed = _whole(event, "seed", 2**31)
        yield from self._begin(sample_room(seed, "heldout"), None)

    def _picture(self, event: Event) -> Iterator[Shown]:
        yield from self._begin(None, _picture(event.get("picture")))

    def _begin(self, room: Room | None, picture: Tensor | None) -> Iterator[Shown]:
        names = [one.name for one in self.companions.values()] or self.names[:1]
        models = [self.load(name) for name in names]
        camera = models[0].config.camera
        if picture is not None and picture.shape[:2] != (camera.height, camera.width):
            raise LociError(
                f"a picture of {picture.shape[1]}x{picture.shape[0]}; the model sees "
                f"{camera.width}x{camera.height}"
            )
        walk = Walk(camera, room, picture)
        companions = {n: Companion(name, model)
                      for n, (name, model) in enumerate(zip(names, models, strict=True), start=1)}
        moments = {n: one.follow(walk.stretches[0]) for n, one in companions.items()}
        self.walk, self.companions, self._number = walk, companions, len(companions)
        self.log.clear()
        yield Shown(None, self._truth(), whole=True)
        for number, moment in moments.items():
            yield Shown(number, moment.pictures, moment, whole=True)

    def _go(self, event: Event) -> Iterator[Shown]:
        walk = self._walk
        if len(walk) > LONGEST:
            raise LociError(f"a walk of {LONGEST} frames is long enough; begin another")
        frames = next(iter(self.companions.values())).model.config.chunk
        stretch = walk.go(str(event.get("move")), frames, bool(event.get("seen", False)))
        if stretch.pictures is not None:
            yield Shown(None, stretch.pictures)
        try:
            for number, companion in self.companions.items():
                moment = companion.follow(stretch)
                yield Shown(number, moment.pictures, moment)
        except Exception:
            # Nobody has taken a step that one of them could not take.
            walk.back()
            for companion in self.companions.values():
                companion.rewind(walk.stretches)
            raise

    def _undo(self, event: Event) -> Iterator[Shown]:
        self._walk.back()
        yield from self._again()

    def _add(self, event: Event) -> Iterator[Shown]:
        """Another memory takes the same walk."""
        name = str(event.get("name"))
        if name not in self.names:
            raise LociError(f"no model '{name[:40]}'{did_you_mean(name[:40], self.names)}")
        if len(self.companions) >= MOST:
            raise LociError(f"{MOST} memories at once are enough; remove one")
        companion = Companion(name, self.load(name))
        self._fits(companion)
        moments = [companion.follow(stretch) for stretch in self._walk.stretches]
        self._number += 1
        self.companions[self._number] = companion
        pictures = torch.cat([moment.pictures for moment in moments])
        yield Shown(self._number, pictures, moments[-1], whole=True)

    def _fork(self, event: Event) -> Iterator[Shown]:
        companion = self._companion(event)
        if len(self.companions) >= MOST:
            raise LociError(f"{MOST} memories at once are enough; remove one")
        self._number += 1
        self.companions[self._number] = companion.fork()
        yield Shown(self._number, companion.pictures, whole=True)

    def _remove(self, event: Event) -> Iterator[Shown]:
        if len(self.companions) < 2:
            raise LociError("somebody has to go along; add another memory first")
        del self.companions[self._numbered(event)]
        return iter(())

    def _forget(self, event: Event) -> Iterator[Shown]:
        self._companion(event).forget(self._walk.stretches)
        return iter(())

    def _exchange(self, event: Event) -> Iterator[Shown]:
        """It remembers another room, as if it had been there."""
        seed = _whole(event, "seed", 2**31)
        self._companion(event).remember(self._walk.elsewhere(seed))
        return iter(())

    def _again(self) -> Iterator[Shown]:
        stretches = self._walk.stretches
        for number, companion in self.companions.items():
            companion.rewind(stretches)
            yield Shown(number, companion.pictures, whole=True)
        if self._walk.room is not None:
            yield Shown(None, self._truth(), whole=True)

    @property
    def _walk(self) -> Walk:
        assert self.walk is not None
        return self.walk

    def _truth(self) -> Tensor:
        known = [s.pictures for s in self._walk.stretches if s.pictures is not None]
        return torch.cat(known)

    def _numbered(self, event: Event) -> int:
        number = event.get("number")
        if not isinstance(number, int) or number not in self.companions:
            raise LociError(f"no memory number {str(number)[:20]}; there are "
                            f"{', '.join(map(str, self.companions))}")
        return number

    def _companion(self, event: Event) -> Companion:
        return self.companions[self._numbered(event)]

    def _fits(self, companion: Companion) -> None:
        first = next(iter(self.companions.values())).model.config
        config = companion.model.config
        if (config.camera, config.chunk) != (first.camera, first.chunk):
            raise LociError(f"{companion.name} sees other pictures, or takes other steps, than the "
                            "others; begin a walk with it alone")


DEEDS: Mapping[str, Callable[[Game, Event], Iterator[Shown]]] = {
    "room": Game._room, "picture": Game._picture, "go": Game._go, "undo": Game._undo,
    "add": Game._add, "fork": Game._fork, "remove": Game._remove, "forget": Game._forget,
    "exchange": Game._exchange,
}


def _whole(event: Event, name: str, most: int) -> int:
    value = event.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < most:
        raise LociError(f"{name} is {str(value)[:40]}; give a whole number from 0 to {most - 1}")
    return value


def plan(room: Room) -> dict[str, Any]:
    """A room from above: its width and depth, and where what stands in it is."""
    return {
        "seed": room.seed, "width": room.width, "depth": room.depth,
        "objects": [
            {"x": item.position[0], "z": item.position[2], "name": f"{item.color} {item.shape}",
             "rgb": [round(255 * part) for part in COLORS[item.color]]}
            for item in room.objects if item is not None
        ],
    }


def _picture(given: Any) -> Tensor:
    """A picture (H, W, 3) uint8 of what an event says of one: its size, and RGB in base64."""
    try:
        height, width = int(given["height"]), int(given["width"])
        values = np.frombuffer(base64.b64decode(given["rgb"], validate=True), np.uint8)
        return torch.from_numpy(values.reshape(height, width, 3).copy())
    except (KeyError, TypeError, ValueError) as error:
        raise LociError("this is no picture; give its height, width and RGB") from error
