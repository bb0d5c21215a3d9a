"""Episodes at a task: what people can do while policies act."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from loci.errors import LociError
from loci.models.world_action import WorldActionModel
from loci.serving.play.robot import Episode, Robot
from loci.serving.play.scene import Event, Scene, Shown, whole
from loci.worlds.tabletop.demonstration import TRAINING
from loci.worlds.tabletop.intervention import LONGEST
from loci.worlds.tabletop.table import CHUNK, RATE
from loci.worlds.tabletop.tasks import ALL_TASKS, make_task
from loci.worlds.tabletop.tasks.base import Cue

# Of one event: an episode of the longest variant ends before.
MOST_STEPS = 20_000
LONGEST_HOLD = 9


class Watching(Scene[Robot]):
    """An episode, and policies that play it side by side, each on a table of its own."""

    begins = ("task",)
    episode: Episode

    def begin(self, event: Event) -> Iterator[Shown]:
        """`task` (default: that which the first policy was trained for), `seed`, and where wanted
        `cue`, `hold` and `instruction`."""
        models = {name: self.load(name) for name in self.first}
        task = event.get("task")
        if task is None:
            task = own_task(self.first[0], models[self.first[0]])
        hold = 1 if event.get("hold") is None else whole(event, "hold", LONGEST_HOLD + 1, 1)
        told = event.get("instruction")
        self.episode = Episode(
            make_task(str(task)[:40], hold), whole(event, "seed", TRAINING), _cue(event),
            None if told is None else str(told)[:500],
        )
        for name in self.first:
            self.join(Robot(name, models[name], self.episode))
        self.note(event | {"names": self.first, "task": self.episode.task.type_name})
        for number in self.companions:
            yield self.shown(number)

    def state(self) -> dict[str, Any]:
        first = next(iter(self.companions.values()))
        task, camera = self.episode.task, first.model.config.world.camera
        return {
            "task": {
                "name": task.type_name, "seed": self.episode.seed, "hold": task.hold,
                "cue": first.env.cue, "cues": task.cues, "told": first.told,
                "stages": task.stages, "limit": task.limit,
                "reads": first.model.config.text is not None,
            },
            "rate": RATE, "every": first.model.config.expert.horizon, "log": self.log,
            "height": camera.height, "width": camera.width,
            "companions": [
                {"number": number, **robot.state()} for number, robot in self.companions.items()
            ],
        }

    def shown(self, number: int) -> Shown:
        robot = self.companions[number]
        pictures = torch.cat([robot.pictures, robot.picture()[None]])
        return Shown(number, pictures, robot.moment, whole=True, frames=range(robot.looks))

    def note(self, event: Event) -> None:
        """Steps after steps are one deed."""
        before = self.log[-1] if self.log else {}
        if event["do"] == before.get("do") == "step":
            self.log[-1] = {"do": "step", "steps": before["steps"] + event["steps"]}
        else:
            self.log.append(event)

    def do(self, event: Event) -> Iterator[Shown]:
        before = self._step
        yield from self.deeds[event["do"]](self, event)
        done = {"steps": self._step - before} if event["do"] == "step" else {}
        self.note(event | done)

    def step(self, event: Event) -> Iterator[Shown]:
        """So many control `steps`, of those whose episode goes on."""
        left = whole(event, "steps", MOST_STEPS + 1, 1)
        self._going()
        while left and any(not robot.over for robot in self.companions.values()):
            some = min(left, CHUNK)
            for number, robot in self.companions.items():
                if not robot.over:
                    pictures, looks, moment = robot.advance(some)
                    yield Shown(number, pictures, moment, frames=looks)
            left -= some

    def move(self, event: Event) -> Iterator[Shown]:
        """A person puts a `thing` down at `x`, `y`, on the tables of all."""
        thing, x, y = str(event.get("thing")), _metres(event, "x"), _metres(event, "y")
        going = self._going()
        for robot in going.values():
            robot.env.check_move(thing, x, y)
        for number, robot in going.items():
            robot.move(thing, x, y)
            yield Shown(number, robot.picture()[None], frames=())

    def lamp(self, event: Event) -> Iterator[Shown]:
        """A lamp that is red stays so for so many `chunks` longer."""
        going, chunks = self._going().values(), whole(event, "chunks", LONGEST + 1, 1)
        for robot in going:
            robot.env.check_red(chunks)
        for robot in going:
            robot.keep_red(chunks)
        return iter(())

    def add(self, event: Event) -> Iterator[Shown]:
        """Another policy plays the same episode from its start, to where the others are; the same
        is done to it."""
        name = self.named(event)
        self.check_room()
        robot = Robot(name, self.load(name), self.episode)
        try:
            for deed in self.log:
                if not robot.over:
                    _follow(robot, deed)
        except LociError as error:
            raise LociError(f"{name} cannot follow what was done so far: {error}") from error
        yield self.shown(self.join(robot))

    def forget(self, event: Event) -> Iterator[Shown]:
        self.companion(event).forget()
        return iter(())

    @property
    def _step(self) -> int:
        """Control steps of whoever is the farthest."""
        return max(robot.env.table.state.step for robot in self.companions.values())

    def _going(self) -> dict[int, Robot]:
        """Those whose episode goes on; LociError where there is none."""
        going = {number: robot for number, robot in self.companions.items() if not robot.over}
        if not going:
            raise LociError("the episode is over; begin another")
        return going

    deeds = {  # noqa: RUF012 (of the class)
        "step": step, "move": move, "lamp": lamp, "add": add, "fork": Scene.fork,
        "remove": Scene.remove, "forget": forget,
    }


def own_task(name: str, model: WorldActionModel) -> str:
    """The task that a policy was trained for, by the instructions that it knows."""
    robot = model.config.embodiment
    told = set(robot.instructions if robot else ())
    for task, kind in ALL_TASKS.items():
        if told & set(kind().instructions):
            return task
    raise LociError(f"{name} does not say which task it was trained for; choose one")


def _follow(robot: Robot, deed: Event) -> None:
    """Do to a robot what was done to all."""
    if deed["do"] == "step":
        for _ in range(deed["steps"]):
            if not robot.over:
                robot.step()
    elif deed["do"] == "move":
        robot.move(deed["thing"], deed["x"], deed["y"])
    elif deed["do"] == "lamp":
        robot.keep_red(deed["chunks"])


def _cue(event: Event) -> Cue | None:
    cue = event.get("cue")
    if cue is None:
        return None
    if not isinstance(cue, (list, tuple)) or not all(type(part) is int for part in cue):
        raise LociError(f"cue {str(cue)[:40]}; give a list of whole numbers")
    return tuple(cue[:9])


def _metres(event: Event, name: str) -> float:
    value = event.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise LociError(f"{name} is {str(value)[:40]}; give a number, in metres")
    return float(value)
