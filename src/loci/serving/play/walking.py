"""Walks through rooms: what people can do while world models go along."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loci.errors import LociError
from loci.serving.play.scene import Event, Scene, Shown, whole
from loci.serving.play.walk import Walk
from loci.serving.play.walker import Walker
from loci.worlds.rooms.room import COLORS, Room, sample_room

# A walk that is longer is no longer played but trained on.
LONGEST = 2000


class Walking(Scene[Walker]):
    """A walk that somebody steers, and world models that go along."""

    begins = ("room", "picture")
    walk: Walk

    def begin(self, event: Event) -> Iterator[Shown]:
        if event["do"] == "room":
            room, picture = sample_room(whole(event, "seed", 2**31), "heldout"), None
        else:
            room, picture = None, _picture(event.get("picture"))
        models = [self.load(name) for name in self.first]
        camera = models[0].config.camera
        if picture is not None and picture.shape[:2] != (camera.height, camera.width):
            raise LociError(
                f"a picture of {picture.shape[1]}x{picture.shape[0]}; the model sees "
                f"{camera.width}x{camera.height}"
            )
        self.walk = Walk(camera, room, picture)
        moments = {}
        for name, model in zip(self.first, models, strict=True):
            walker = Walker(name, model)
            moments[self.join(walker)] = walker.follow(self.walk.stretches[0])
        self.note(event | {"names": self.first})
        yield Shown(None, self._truth(), whole=True)
        for number, walker in self.companions.items():
            yield Shown(number, walker.pictures, moments[number], whole=True)

    def state(self) -> dict[str, Any]:
        walk = self.walk
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

    def shown(self, number: int) -> Shown:
        return Shown(number, self.companions[number].pictures, whole=True)

    def go(self, event: Event) -> Iterator[Shown]:
        walk = self.walk
        if len(walk) > LONGEST:
            raise LociError(f"a walk of {LONGEST} frames is long enough; begin another")
        frames = next(iter(self.companions.values())).model.config.chunk
        stretch = walk.go(str(event.get("move")), frames, bool(event.get("seen", False)))
        if stretch.pictures is not None:
            yield Shown(None, stretch.pictures)
        try:
            for number, walker in self.companions.items():
                moment = walker.follow(stretch)
                yield Shown(number, walker.last, moment)
        except Exception:
            # Nobody has taken a step that one of them could not take.
            walk.back()
            for walker in self.companions.values():
                walker.rewind(walk.stretches)
            raise

    def undo(self, event: Event) -> Iterator[Shown]:
        self.walk.back()
        for number, walker in self.companions.items():
            walker.rewind(self.walk.stretches)
            yield self.shown(number)
        if self.walk.room is not None:
            yield Shown(None, self._truth(), whole=True)

    def add(self, event: Event) -> Iterator[Shown]:
        """Another memory takes the same walk."""
        name = self.named(event)
        self.check_room()
        walker = Walker(name, self.load(name))
        self._fits(walker)
        moments = [walker.follow(stretch) for stretch in self.walk.stretches]
        number = self.join(walker)
        yield Shown(number, walker.pictures, moments[-1], whole=True)

    def forget(self, event: Event) -> Iterator[Shown]:
        self.companion(event).forget(self.walk.stretches)
        return iter(())

    def exchange(self, event: Event) -> Iterator[Shown]:
        """It remembers another room, as if it had been there."""
        seed = whole(event, "seed", 2**31)
        self.companion(event).remember(self.walk.elsewhere(seed))
        return iter(())

    def _truth(self) -> Tensor:
        known = [s.pictures for s in self.walk.stretches if s.pictures is not None]
        return torch.cat(known)

    def _fits(self, walker: Walker) -> None:
        first = next(iter(self.companions.values())).model.config
        config = walker.model.config
        if (config.camera, config.chunk) != (first.camera, first.chunk):
            raise LociError(f"{walker.name} sees other pictures, or takes other steps, than the "
                            "others; begin a walk with it alone")

    deeds = {  # noqa: RUF012 (of the class)
        "go": go, "undo": undo, "add": add, "fork": Scene.fork, "remove": Scene.remove,
        "forget": forget, "exchange": exchange,
    }


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
