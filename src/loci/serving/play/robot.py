"""A policy at a task of the tabletop, one control step after the other, with its memory."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loci.errors import LociError
from loci.models.world_action import WorldActionModel
from loci.seeds import normal
from loci.serving.play import contents
from loci.serving.play.scene import Moment
from loci.streaming.attended import Attending, halfway
from loci.study.tabletop.episodes import fits
from loci.worlds.environment import Observation
from loci.worlds.tabletop import arms
from loci.worlds.tabletop.env import Tabletop
from loci.worlds.tabletop.intervention import AREA, movable
from loci.worlds.tabletop.tasks.base import Cue, Task

# Control steps from one picture of the page to the next.
PICTURE = 2


@dataclass(frozen=True)
class Episode:
    """What is played: a task, the seed of the episode, what must be remembered in it (None: what
    the seed draws), and what the policy is told (None: what the episode asks for)."""

    task: Task
    seed: int
    cue: Cue | None = None
    instruction: str | None = None


@dataclass(frozen=True)
class Note:
    """Something that was done to a robot: `what`, at control step `step`.

    Of an object that was moved: `thing`; the cameras that would have shown it at once (`now`) and
    at the next look (`after`, None before it); and the number of the first look that showed it.
    """

    step: int
    what: str
    thing: str | None = None
    now: Sequence[str] = ()
    after: Sequence[str] | None = None
    first: int | None = None


class Robot:
    """`name`: of its policy. It looks before every chunk of actions, and never in between.

    Its pictures, its noise and so its actions are those of episode `episode.seed` of
    `loci eval closed-loop`. LociError for a policy with another robot, and for an instruction to
    one that reads none.
    """

    def __init__(self, name: str, model: WorldActionModel, episode: Episode):
        fits(name, model.config)
        if episode.instruction is not None and model.config.text is None:
            raise LociError(f"{name} reads no instructions; leave the instruction out")
        self.name, self.model, self.episode = name, model, episode
        self.env = Tabletop(episode.task)
        self.env.begin(episode.seed, episode.cue)
        self.policy = model.policy()
        if model.config.text is not None:
            self.policy.init(self.told)
        self.reached: dict[str, int] = {}  # stages, and the control step at which they were
        self.notes: list[Note] = []
        self._seen: Observation = self.env.observe()
        self._views = [self._seen["pixels"]]
        self._chunk: np.ndarray | None = None
        self._at = 0  # the next action of the chunk
        self._pictures: list[Tensor] = []
        self.moment = self._look()

    @property
    def told(self) -> str:
        """What it is asked to do."""
        told = self.episode.instruction
        return self.env.verdict()["task_description"] if told is None else told

    @property
    def trained(self) -> bool:
        """Whether it was trained for this task, as far as it says."""
        robot = self.model.config.embodiment
        told = robot.instructions if robot else ()
        return not told or bool(set(told) & set(self.episode.task.instructions))

    @property
    def over(self) -> bool:
        return self.env.over

    @property
    def looks(self) -> int:
        """How often it looked."""
        return len(self._pictures)

    def step(self) -> Moment | None:
        """One control step of an episode that goes on; what it came to where it looked then."""
        assert self._chunk is not None
        _, ended, cut, info = self.env.advance(self._chunk[self._at])
        self._at += 1
        step = self.env.table.state.step
        for stage, done in info["stages"].items():
            if done:
                self.reached.setdefault(stage, step)
        if ended or cut:
            return None
        if self._at % self.model.steps_per_image == 0:
            self._seen = self.env.observe()
            self._views.append(self._seen["pixels"])
        if self._at < len(self._chunk):
            return None
        self.moment = self._look()
        return self.moment

    def advance(self, steps: int) -> tuple[Tensor, list[int], Moment | None]:
        """Control steps, up to the end of the episode: pictures (n, H, W, 3) uint8 of every second
        one and of the last, which of them it looked at, and what its last look came to."""
        pictures, looks, moment = [], [], None
        for number in range(1, steps + 1):
            looked = self.step()
            if looked is not None:
                looks.append(len(pictures))
                moment = looked
                pictures.append(self._pictures[-1])
            elif self.env.table.state.step % PICTURE == 0 or number == steps or self.over:
                pictures.append(self.picture())
            if self.over:
                break
        return torch.stack(pictures), looks, moment

    def picture(self) -> Tensor:
        """What its cameras show now, put together as the model sees it, (H, W, 3) uint8."""
        return self._picture(self.env.observe())

    @property
    def pictures(self) -> Tensor:
        """What it looked at, (looks, H, W, 3) uint8."""
        return torch.stack(self._pictures)

    def move(self, thing: str, x: float, y: float) -> None:
        """A person moves an object; see `Tabletop.move`."""
        self.env.move(thing, x, y)
        self._note(f"{thing} moved to ({x:.2f}, {y:.2f})", thing, self._cameras(thing))

    def keep_red(self, chunks: int) -> None:
        self.env.keep_red(chunks)
        self._note(f"lamp kept red for {chunks} chunks longer")

    def forget(self) -> None:
        """Know nothing but the last look, as if the episode had begun with it."""
        pixels, joints = self._frame
        self.policy.reset()
        self.policy.observe(pixels, joints)
        self._note("memory emptied")

    def fork(self) -> Robot:
        """Another one in the same situation, with the same past."""
        other = copy.copy(self)
        other.env = Tabletop(self.episode.task)
        other.env.restore(self.env.snapshot())
        other.policy = self.policy.fork()
        other.reached, other.notes = dict(self.reached), list(self.notes)
        other._views, other._pictures = list(self._views), list(self._pictures)
        return other

    @property
    def held(self) -> dict[str, int]:
        """Bytes that each store keeps."""
        return contents.held(self.policy.stream)

    @property
    def kept(self) -> dict[str, list[int]]:
        """Looks of which something is still in the cache, by kind."""
        return contents.kept(self.policy.stream, self._first)

    def state(self) -> dict[str, Any]:
        """Where it is, and what it holds, as JSON has it."""
        info, robot = self.env.verdict(), self.model.config.embodiment
        return {
            "name": self.name, "cameras": robot.camera_names if robot else (),
            "held": self.held, "kept": self.kept,
            "tokens": self.policy.stream.tokens(), "step": self.env.table.state.step,
            "looks": self.looks, "reached": self.reached, "success": info["is_success"],
            "failure": info["failure"], "over": self.over, "trained": self.trained,
            "notes": [vars(note) for note in self.notes], "table": plan(self.env),
        }

    @property
    def _first(self) -> int:
        """The first look that it knows of."""
        return self.looks - self.policy.lengths[0]

    def _look(self) -> Moment:
        """Take in what was seen since the last look, and choose the next chunk."""
        pixels = {name: np.stack([seen[name] for seen in self._views])[None]
                  for name in self._views[0]}
        joints = np.asarray(self._seen["agent_pos"])[None]
        executed = None if self._chunk is None else self._chunk[None]
        config, clock = self.model.config, [time.perf_counter()]
        self.policy.observe(pixels, joints, executed)
        self._frame = {name: views[:, -1:] for name, views in pixels.items()}, joints
        clock.append(time.perf_counter())
        shape = config.expert.horizon, config.expert.actions
        noise = normal(shape, 0, "act", self.episode.seed, self.looks)[None]
        attending = Attending(
            self.policy, self.policy.read(), {halfway(config.flow.grid(config.steps))}
        )
        self._chunk = self.policy.solve(attending.reading, noise)[0].cpu().numpy()
        clock.append(time.perf_counter())
        self._pictures.append(self._picture(self._seen))
        self._views, self._at = [], 0
        self._judge_notes()
        (found,) = attending.found()
        looked = contents.looked_at(found, self._first, self.policy.lengths[0])
        times = [1000 * (end - start) for start, end in pairwise(clock)]
        return Moment(dict(zip(("look", "act"), times, strict=True)), looked)

    def _judge_notes(self) -> None:
        """Say of what was moved whether this look shows it."""
        look = self.looks - 1
        for place, note in enumerate(self.notes):
            if note.thing is None or note.first is not None:
                continue
            cameras = self._cameras(note.thing)
            self.notes[place] = replace(
                note, after=cameras if note.after is None else note.after,
                first=look if cameras else None,
            )

    def _cameras(self, thing: str) -> tuple[str, ...]:
        """Those of the policy's cameras that show a thing now."""
        robot = self.model.config.embodiment
        assert robot is not None
        return tuple(name for name in self.env.seen_by(thing) if name in robot.camera_names)

    def _note(self, what: str, thing: str | None = None, now: Sequence[str] = ()) -> None:
        self.notes.append(Note(self.env.table.state.step, what, thing, now))

    def _picture(self, seen: Observation) -> Tensor:
        robot = self.model.config.embodiment
        assert robot is not None
        return torch.from_numpy(robot.picture(seen["pixels"], self.model.config.world.camera))


def plan(env: Tabletop) -> dict[str, Any]:
    """A table from above: what lies on it, where the fingertips are, how the lamp is, and where
    things may be put."""
    table = env.table
    can, places = set(movable(table)), table.state.places.tolist()
    return {
        "area": AREA, "lamp": table.lamp,
        "objects": [
            {"name": thing.name, "x": places[n][0], "y": places[n][1], "half": thing.half[0],
             "hollow": thing.hollow, "movable": n in can, "held": table.holder(n) >= 0,
             "rgb": _rgb(thing.geoms[0].material.color)}
            for n, thing in enumerate(table.layout.objects)
        ],
        "buttons": [
            {"name": button.name, "x": button.at[0], "y": button.at[1], "half": button.radius,
             "rgb": _rgb(button.cap[0].material.color)}
            for button in table.layout.buttons
        ],
        "tips": [
            {"arm": name, "x": float(tip[0]), "y": float(tip[1])}
            for arm, name in enumerate(arms.ARMS) for tip in [table.tip(arm)]
        ],
    }


def _rgb(color: Sequence[float]) -> list[int]:
    return [round(255 * part) for part in color]
