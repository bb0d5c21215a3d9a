"""What the experts are made of: movements that last whole chunks.

Each begins at the current joints, which corrects for any disturbance before it, and lasts exactly
16 control steps, so that things always happen at the same step of a chunk. An arm that is not
needed rests. Source: ours; in a prototype random durations cost half the success.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from loci.worlds.tabletop import arms
from loci.worlds.tabletop.arms import REST
from loci.worlds.tabletop.table import CHUNK, STOP, Table

Actions = Iterator[np.ndarray]
HOVER = 0.13  # metres above the point where something is done
DOWN, ACT = 7, 3  # steps of a chunk: down, opening or closing; then up
# An item put down closer than this to its place is left there.
CLOSE = 0.02


def above(point: np.ndarray) -> np.ndarray:
    return point + np.array([0, 0, HOVER])


def go(table: Table, targets: dict[int, tuple[np.ndarray, float]]) -> Actions:
    """One chunk: move arms to fingertip points and gripper openings, the others to rest."""
    start, end = table.state.joints.copy(), REST.copy()
    for arm, (point, grip) in targets.items():
        end[arm] = np.append(arms.reach(arm, point), grip)
    for share in _eased(CHUNK):
        joints = start + share * (end - start)
        joints[:, -1] = end[:, -1]
        yield joints.reshape(-1)


def rest(table: Table) -> Actions:
    """One chunk: both arms to rest."""
    return go(table, {})


def dip(table: Table, arm: int, point: np.ndarray, before: float, after: float) -> Actions:
    """One chunk: down to `point`, the gripper from `before` to `after` there, up again."""
    ways = [(table.tip(arm), point, DOWN, before), (point, point, ACT, after),
            (point, above(point), CHUNK - DOWN - ACT, after)]  # fmt: skip
    joints = REST.copy()
    for start, end, steps, grip in ways:
        for share in _eased(steps):
            joints[arm] = np.append(arms.reach(arm, start + share * (end - start)), grip)
            yield joints.reshape(-1).copy()


def pick(table: Table, arm: int, item: int) -> Actions:
    """Two chunks: take an item; repeated until the arm holds it."""
    while table.holder(item) != arm:
        yield from go(table, {arm: (above(table.grip(item)), 1.0)})
        yield from dip(table, arm, table.grip(item), 1.0, 0.0)


def put(
    table: Table, arm: int, item: int, point: np.ndarray, done: Callable[[], bool] | None = None
) -> Actions:
    """Two chunks: put down what the arm holds, its foot at `point`.

    Repeated until `done()` is true (default: until it lies near `point`).
    """
    done = done or (lambda: table.near(item, point, CLOSE))
    while True:
        target = point + np.array([0, 0, table.layout.objects[item].grip or 0.0])
        yield from go(table, {arm: (above(target), 0.0)})
        yield from dip(table, arm, target, 0.0, 1.0)
        if done():
            return
        yield from pick(table, arm, item)


def top(table: Table, button: int) -> np.ndarray:
    """The middle of a button's cap, (3,)."""
    shape = table.layout.buttons[button]
    return np.array(shape.at) + np.array([0, 0, shape.height])


def press(table: Table, arm: int, button: int, beyond: float = 0.0) -> Actions:
    """One chunk: press a button once and come up again. beyond: metres that the hand aims below
    where the cap stops."""
    return dip(table, arm, top(table, button) + np.array([0, 0, STOP - beyond]), 0.0, 0.0)


def _eased(steps: int) -> np.ndarray:
    """Shares of a way, (steps,), that start and end slowly (minimum jerk; Flash and Hogan 1985)."""
    t = np.arange(1, steps + 1) / steps
    return t**3 * (10 - 15 * t + 6 * t**2)
