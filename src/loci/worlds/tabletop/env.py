"""The tabletop as a gymnasium environment: two arms, three cameras, tasks that need memory.

`gymnasium.make("loci.worlds.tabletop.env:loci/CoverBlocks-v0")` or `Tabletop("cover-blocks")`; many
at once by `gymnasium.make_vec`. An episode is a pure function of the task, the seed and the
actions. Source: ours; names of observations, info and attributes are those of gym-aloha and of
LeRobot's evaluation.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np

from loci.errors import LociError, did_you_mean
from loci.geometry import Camera
from loci.io.extras import extra
from loci.io.mosaic import mosaic
from loci.models.embodiment import Embodiment
from loci.worlds.tabletop import intervention
from loci.worlds.tabletop.arms import ARMS, CAMERAS, HIGHER, JOINTS, LOWER
from loci.worlds.tabletop.embodiment import embodiment
from loci.worlds.tabletop.table import RATE, State, Table
from loci.worlds.tabletop.tasks import ALL_TASKS, make_task
from loci.worlds.tabletop.tasks.base import Cue, Task, task_rng
from loci.worlds.tabletop.view import HEAD, TableView

with extra("worlds"):
    import gymnasium
    from gymnasium import spaces

ACTION = len(ARMS) * JOINTS
# What LeRobot says to every environment when an evaluation begins; it changes nothing here.
NEW_ROLLOUT = "lerobot_new_rollout"
Observation = dict[str, Any]
Info = dict[str, Any]


class Tabletop(gymnasium.Env):
    """One task on the table, 20 control steps a second.

    Actions (14,): six joint angles in radians and a gripper (0 closed .. 1 open), left arm, then
    right; absolute, and reached at bounded speed. Observations: {"pixels": {"head", "left_wrist",
    "right_wrist"}: uint8 (H, W, 3), the wrists half the head's size, "agent_pos": float32 (14,)}.
    Info: "is_success" (once true it stays), "task_description", "stages" (which were reached),
    "failure" (its kind, "" for none). The reward is the share of stages newly reached. An episode
    ends with success or failure, and is cut at the task's limit; actions after that change nothing.
    `head` is the head camera.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": RATE}  # noqa: RUF012 (gymnasium's)

    def __init__(
        self, task: Task | str = "put-back-block", head: Camera = HEAD,
        render_mode: str | None = None,
    ):  # fmt: skip
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise LociError(f"no render mode '{render_mode}'; give rgb_array or None")
        self.task = make_task(task) if isinstance(task, str) else task
        self.head, self.render_mode = head, render_mode
        self.begin(0)
        sizes = [self.view.head, self.view.wrist, self.view.wrist]
        pixels = {
            name: spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
            for name, camera in zip(CAMERAS, sizes, strict=True)
        }
        low, high = (np.tile(v, len(ARMS)).astype(np.float32) for v in (LOWER, HIGHER))
        joints = spaces.Box(low, high, dtype=np.float32)
        self.observation_space = spaces.Dict({"pixels": spaces.Dict(pixels), "agent_pos": joints})
        self.action_space = spaces.Box(low, high, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin episode `seed` (a random one for None).

        options: {"cue": (...)} chooses what is to be remembered; the rest of the layout stays. (It
        was called "fact", which is still understood.)
        Raises LociError for other options, a cue that the task does not have, a negative seed.
        """
        if seed is not None and seed < 0:
            raise LociError(f"seed {seed} is negative; give 0 or more")
        super().reset(seed=seed)
        options = dict(options or {})
        options.pop(NEW_ROLLOUT, None)
        former = options.pop("fact", None)
        cue = options.pop("cue", former)
        if options:
            name = next(iter(options))
            raise LociError(f"unknown option '{name}' of reset{did_you_mean(name, ('cue',))}")
        self.begin(int(self.np_random.integers(2**31)) if seed is None else seed, cue)
        return self.observe(), self.verdict()

    def begin(self, seed: int, cue: Cue | None = None) -> None:
        """`reset` without pictures; `cue` replaces the episode's own."""
        name = self.task.type_name or ""
        if cue is None:
            cue = self.task.draw(task_rng(name, seed, "fact"))
        cue = tuple(cue) if isinstance(cue, list) else cue
        if cue not in self.task.cues:
            raise LociError(f"{name} has no cue {cue}; give one of its cues")
        self.seed, self.cue = seed, cue
        self.table = Table(self.task.layout(task_rng(name, seed, "layout"), self.cue))
        self.table.state.stages = dict.fromkeys(self.task.stages, False)
        self.task.begin(self.table, self.cue)
        self._view: TableView | None = None

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, Info]:
        reward, terminated, truncated, info = self.advance(action)
        return self.observe(), reward, terminated, truncated, info

    def advance(self, action: np.ndarray) -> tuple[float, bool, bool, Info]:
        """`step` without pictures, which take most of its time.

        Raises LociError for an action of another width or that is not finite.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (ACTION,):
            raise LociError(f"an action of shape {action.shape}; give ({ACTION},)")
        if not np.isfinite(action).all():
            raise LociError("an action that is not finite; check what made it")
        before = self._progress()
        if not self.over:
            events = self.table.advance(action)
            self.task.update(self.table, self.cue, events)
        s = self.table.state
        ended = s.success or bool(s.failure)
        return self._progress() - before, ended, self.over and not ended, self.verdict()

    def observe(self) -> Observation:
        """What the cameras and the joints show now."""
        s = self.table.state
        pixels = self.view.render(s, self.table.lamp)
        return {"pixels": pixels, "agent_pos": s.joints.reshape(-1).astype(np.float32)}

    def render(self) -> np.ndarray:
        """The mosaic of the three cameras, uint8 (3 H / 2, W, 3)."""
        pixels = self.view.render(self.table.state, self.table.lamp)
        size = Camera(height=3 * self.head.height // 2, width=self.head.width)
        return mosaic([pixels[name][None] for name in CAMERAS], size)[0]

    @property
    def task_description(self) -> str:
        """The instruction, by LeRobot's name for it."""
        return self.task.instruction

    @property
    def _max_episode_steps(self) -> int:
        """The task's limit, by the name under which gymnasium and LeRobot look for it."""
        return self.task.limit

    @property
    def embodiment(self) -> Embodiment:
        """The robot: its cameras, joints and rate, and the task's instruction."""
        return embodiment(instructions=self.task.instructions, head=self.head)

    @property
    def view(self) -> TableView:
        """The cameras; they are built for the first picture."""
        if self._view is None:
            self._view = TableView(self.table.layout, self.head)
        return self._view

    @property
    def over(self) -> bool:
        """Whether the episode has ended or reached its limit."""
        s = self.table.state
        return s.success or bool(s.failure) or s.step >= self.task.limit

    @property
    def subtask(self) -> str:
        """What is to be done now, for annotations: it may tell what the pictures no longer show."""
        return self.task.subtask(self.table, self.cue)

    def move(self, name: str, x: float, y: float) -> None:
        """Put an object down at (x, y), in metres, as a person's hand does between two control
        steps; see `intervention.py`. LociError, with nothing changed, for another object or place,
        and once the episode is over."""
        item = self._object(name)
        self._check_going()
        intervention.move(self.table, item, x, y)

    def check_move(self, name: str, x: float, y: float) -> None:
        """Raise what `move` would, and change nothing."""
        item = self._object(name)
        self._check_going()
        intervention.landing(self.table, item, x, y)

    def keep_red(self, chunks: int) -> None:
        """Keep a red lamp red for `chunks` chunks longer. LociError for a green one, and once the
        episode is over."""
        self._check_going()
        intervention.keep_red(self.table, chunks)

    def check_red(self, chunks: int) -> None:
        """Raise what `keep_red` would, and change nothing."""
        self._check_going()
        intervention.check_red(self.table, chunks)

    def seen_by(self, name: str) -> tuple[str, ...]:
        """The cameras that show some of an object now."""
        item = self._object(name)
        found = self.view.identities(self.table.state, self.table.lamp)
        return tuple(camera for camera, shown in found.items() if (shown == item).any())

    def snapshot(self) -> dict[str, Any]:
        """The episode as a plain tree of numbers and lists that JSON holds without loss."""
        state = dataclasses.asdict(self.table.state)
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in state.items()}
        return {
            "task": self.task.to_dict(), "seed": self.seed, "fact": list(self.cue), "state": plain
        }  # fmt: skip

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot of this environment or of another with the same task.

        Raises LociError for a snapshot of another task.
        """
        if snapshot["task"] != self.task.to_dict():
            raise LociError(
                f"a snapshot of {snapshot['task']} does not fit {self.task.to_dict()}; "
                "restore it into an environment of its own task"
            )
        self.begin(snapshot["seed"], tuple(snapshot["fact"]))
        fresh = self.table.state
        for field in dataclasses.fields(State):
            value, now = snapshot["state"][field.name], getattr(fresh, field.name)
            if isinstance(now, np.ndarray):
                value = np.array(value, now.dtype).reshape(now.shape)
            elif isinstance(now, dict):
                value = copy.deepcopy(value)
            setattr(fresh, field.name, value)

    def _object(self, name: str) -> int:
        names = [thing.name for thing in self.table.layout.objects]
        if name not in names:
            raise LociError(f"no object '{name[:40]}' on the table{did_you_mean(name[:40], names)}")
        return names.index(name)

    def _check_going(self) -> None:
        if self.over:
            raise LociError("the episode is over; begin another")

    def _progress(self) -> float:
        stages = self.table.state.stages
        return sum(stages.values()) / len(stages)

    def verdict(self) -> Info:
        s = self.table.state
        failure = s.failure
        if not failure and not s.success and s.step >= self.task.limit:
            missing = next((name for name, reached in s.stages.items() if not reached), "finished")
            failure = f"not {missing}"
        return {
            "is_success": s.success,
            "task_description": self.task.told(self.cue),
            "stages": dict(s.stages),
            "failure": failure,
        }


def _register() -> None:
    """`put-back-block` as "loci/PutBackBlock-v0", and so on."""
    for name, task in ALL_TASKS.items():
        identity = f"loci/{task.__name__}-v0"
        if identity not in gymnasium.registry:
            gymnasium.register(identity, "loci.worlds.tabletop.env:Tabletop", kwargs={"task": name})


_register()
