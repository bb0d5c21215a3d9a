"""What lies on the table and what two hands do to it: grasping, falling, covering, pressing.

No forces. A gripper that closes near the grip of an item carries it until it opens; what is let go
falls onto what is below it; a lid let go over a block closes over it; a button follows the
fingertips down and springs back. A lamp says when to wait (red), when to go on (green), and that a
press was taken (blue, for a chunk). Metres, z up, the top of the table at `arms.TABLE`. Source:
ours; thresholds of buttons and grippers are RMBench's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from loci.worlds.render.geom import Geom
from loci.worlds.tabletop import arms
from loci.worlds.tabletop.arms import TABLE

RATE = 20  # control steps a second
CHUNK = 16  # control steps of a chunk; the lamp changes between chunks only
CAPTURE = 0.035  # a closing gripper takes what it finds within this distance
OPEN = 0.8  # a gripper further open than this holds nothing
COVER = 0.03  # a lid let go within this distance of a block closes over it
FALL = 0.03  # metres a step
PRESSED, REARMED, STOP = -0.005, -0.001, -0.012  # how far a button's cap is down
# What is lower than this above an item's foot can carry it; the rest it merely touches.
_STEP = 0.015

Point = tuple[float, float, float]
Lamp = Literal["red", "green", "blue"]


@dataclass(frozen=True, eq=False)
class TableObject:
    """Something that lies on the table.

    `geoms` are in its own frame: z up, the origin in the middle of its foot. `half` are the
    half-sides of its footprint, `height` its own. A gripper takes it at `grip` above its foot, its
    fingers stopping at the opening `width` (0 closed .. 1 open); None: it cannot be taken. A
    `hollow` one (a lid) closes over blocks. `at` is where its foot stands at first.
    """

    name: str
    geoms: tuple[Geom, ...]
    half: tuple[float, float]
    height: float
    at: Point
    grip: float | None = None
    width: float = 0.0
    hollow: bool = False


@dataclass(frozen=True, eq=False)
class Button:
    """A round button: its name, the middle of its foot, radius, and height of its cap's top."""

    name: str
    at: Point
    geoms: tuple[Geom, ...]
    cap: tuple[Geom, ...]
    radius: float
    height: float


@dataclass(frozen=True, eq=False)
class Layout:
    """All that an episode starts with; `scenery` are geoms that never move, in world axes.

    `waits` are random numbers of chunks for which the lamp is red, `shown` the numbers that can be
    read in the scenery.
    """

    objects: tuple[TableObject, ...]
    buttons: tuple[Button, ...] = ()
    scenery: tuple[Geom, ...] = ()
    waits: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()


@dataclass(frozen=True)
class Event:
    """What a hand did in a step: `what` happened to item or button number `which`."""

    what: Literal["grasped", "released", "pressed"]
    which: int
    arm: int


@dataclass
class State:
    """All that changes, as plain arrays and numbers.

    joints (2, 7); places (N, 3) of the objects' feet and yaws (N,); held (2,) the item in each
    hand or -1, and turns (2,) its yaw in the hand; depths (B,) of the buttons' caps, armed (B,);
    the lamp is not green before step `busy`, and blue before step `taken`. `stages`, `failure` (""
    for none) and `success` are the task's verdict so far, `task` what else it keeps.
    """

    joints: np.ndarray
    places: np.ndarray
    yaws: np.ndarray
    held: np.ndarray
    turns: np.ndarray
    depths: np.ndarray
    armed: np.ndarray
    step: int = 0
    busy: int = 0
    taken: int = 0
    stages: dict[str, bool] = field(default_factory=dict)
    failure: str = ""
    success: bool = False
    task: dict[str, Any] = field(default_factory=dict)


class Table:
    """A layout and its state, which one action (14,) at a time advances."""

    def __init__(self, layout: Layout):
        self.layout = layout
        buttons = len(layout.buttons)
        self.state = State(
            joints=arms.REST.copy(),
            places=np.array([t.at for t in layout.objects], float).reshape(-1, 3),
            yaws=np.zeros(len(layout.objects)),
            held=np.full(2, -1),
            turns=np.zeros(2),
            depths=np.zeros(buttons),
            armed=np.ones(buttons, bool),
        )
        self._takable = [i for i, t in enumerate(layout.objects) if t.grip is not None]

    @property
    def ready(self) -> bool:
        """Whether the lamp is green."""
        return self.lamp == "green"

    @property
    def lamp(self) -> Lamp:
        if self.state.step >= self.state.busy:
            return "green"
        return "blue" if self.state.step < self.state.taken else "red"

    @property
    def chunk(self) -> int:
        """The number of the chunk that the next step belongs to."""
        return self.state.step // CHUNK

    def wait(self, chunks: int, taken: bool = False) -> None:
        """Turn the lamp red until `chunks` more chunks have passed. taken: it is blue for the first
        of them, which shows once that a press counted."""
        end = ((self.state.step - 1) // CHUNK + 1) * CHUNK
        self.state.busy = end + chunks * CHUNK
        self.state.taken = end + CHUNK if taken else 0

    def tip(self, arm: int) -> np.ndarray:
        """Where an arm's fingertips are, (3,)."""
        return arms.tip(arm, self.state.joints[arm])[0]

    def grip(self, item: int) -> np.ndarray:
        """Where an item is taken, (3,)."""
        height = self.layout.objects[item].grip or 0.0
        return self.state.places[item] + np.array([0, 0, height])

    def holder(self, item: int) -> int:
        """The arm that holds an item, or -1."""
        return int(np.flatnonzero(self.state.held == item)[0]) if item in self.state.held else -1

    def still(self, item: int) -> bool:
        """Whether nobody holds it and it does not fall."""
        height = self.support(item)
        return self.holder(item) < 0 and self.state.places[item, 2] <= height

    def near(self, item: int, point: np.ndarray, within: float) -> bool:
        """Whether an item's foot is less than `within` from `point`, seen from above."""
        return bool(np.hypot(*(self.state.places[item] - point)[:2]) < within)

    def under(self, lid: int) -> int:
        """The block that a lid is closed over, or -1."""
        if self.holder(lid) >= 0:
            return -1
        places, objects = self.state.places.tolist(), self.layout.objects
        x, y, z = places[lid]
        for index in self._takable:
            over = places[index][:2] == [x, y] and not objects[index].hollow
            if over and z < places[index][2] + objects[index].height:
                return index
        return -1

    def covered(self, item: int) -> bool:
        """Whether a lid is closed over it."""
        return any(self.layout.objects[i].hollow and self.under(i) == item for i in self._takable)

    def advance(self, action: np.ndarray) -> list[Event]:
        """One control step toward the joints `action` (14,); what happened."""
        s = self.state
        s.step += 1
        target = np.clip(action.reshape(2, arms.JOINTS), arms.LOWER, arms.HIGHER)
        before = s.joints[:, -1].copy()
        s.joints = s.joints + np.clip(target - s.joints, -arms.SPEED, arms.SPEED)
        events: list[Event] = []
        tips = [arms.tip(arm, joints) for arm, joints in enumerate(s.joints)]
        for arm, (tip, yaw) in enumerate(tips):
            self._hold(arm, float(before[arm]), tip, yaw, events)
        for item in self._takable:
            if item not in s.held:
                self._fall(item)
        for button in range(len(self.layout.buttons)):
            self._press(button, [tip for tip, _ in tips], events)
        return events

    def _hold(
        self, arm: int, before: float, tip: np.ndarray, yaw: float, events: list[Event]
    ) -> None:
        """Take, carry or let go."""
        s, objects = self.state, self.layout.objects
        held = int(s.held[arm])
        if held >= 0 and s.joints[arm, -1] > OPEN:
            s.held[arm] = -1
            self._settle(held)
            events.append(Event("released", held, arm))
            return
        if held < 0 and s.joints[arm, -1] < before:
            held = self._between(float(s.joints[arm, -1]), before, tip)
            if held >= 0:
                s.held[arm], s.turns[arm] = held, s.yaws[held] - yaw
                events.append(Event("grasped", held, arm))
        if held >= 0:
            # The fingers stop at its sides and bring it between them.
            s.joints[arm, -1] = max(s.joints[arm, -1], objects[held].width)
            s.places[held] = tip - np.array([0, 0, objects[held].grip or 0.0])
            s.places[held, 2] = max(s.places[held, 2], TABLE)
            s.yaws[held] = yaw + s.turns[arm]

    def _between(self, now: float, before: float, tip: np.ndarray) -> int:
        """The nearest item that fingers closing from `before` to `now` take at `tip`, or -1."""
        taken, nearest = -1, CAPTURE
        for item in self._takable:
            distance = float(np.linalg.norm(self.grip(item) - tip))
            free = item not in self.state.held and not self.covered(item)
            if now <= self.layout.objects[item].width <= before and distance < nearest and free:
                taken, nearest = item, distance
        return taken

    def _settle(self, lid: int) -> None:
        """A lid let go over a block slides into place."""
        s, objects = self.state, self.layout.objects
        if not objects[lid].hollow:
            return
        for index in self._takable:
            if (
                not objects[index].hollow
                and index not in s.held
                and self.near(lid, s.places[index], COVER)
                and s.places[lid, 2] >= s.places[index, 2] - _STEP
                and not self.covered(index)
            ):
                s.places[lid, :2], s.yaws[lid] = s.places[index, :2], s.yaws[index]
                return

    def _fall(self, item: int) -> None:
        height = self.support(item)
        place = self.state.places[item]
        place[2] = max(place[2] - FALL, height)

    def support(self, item: int) -> float:
        """The height of what carries an item."""
        height, shape = TABLE, self.layout.objects[item]
        places, held = self.state.places.tolist(), self.state.held.tolist()
        x, y, z = places[item]
        for index, other in enumerate(self.layout.objects):
            top = places[index][2] + other.height
            if index == item or index in held or not height < top <= z + _STEP:
                continue
            aside, ahead = abs(places[index][0] - x), abs(places[index][1] - y)
            if aside >= other.half[0] + shape.half[0] or ahead >= other.half[1] + shape.half[1]:
                continue
            # A lid closes over the block that it is right above.
            inside = shape.hollow and not other.hollow and other.grip is not None
            if not (inside and aside == 0 and ahead == 0):
                height = top
        return height

    def _press(self, button: int, tips: list[np.ndarray], events: list[Event]) -> None:
        s, shape = self.state, self.layout.buttons[button]
        top = shape.at[2] + shape.height
        depth, by = 0.0, arms.LEFT
        for arm, tip in enumerate(tips):
            over = np.hypot(tip[0] - shape.at[0], tip[1] - shape.at[1]) < shape.radius
            if over and tip[2] - top < depth:
                depth, by = max(tip[2] - top, STOP), arm
        s.depths[button] = depth
        if s.armed[button] and depth < PRESSED:
            s.armed[button] = False
            events.append(Event("pressed", button, by))
        elif depth > REARMED:
            s.armed[button] = True
