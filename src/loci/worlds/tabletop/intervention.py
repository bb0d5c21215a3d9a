"""What a person does to the table in the middle of an episode: move an object, keep the lamp red.

An object is put down on the free table, on a mat, over a block or under a lid; or it changes places
with another one of its kind. Nothing is taken out of a hand. The task judges what then lies on the
table, whoever put it there. Source: ours.
"""

from __future__ import annotations

import numpy as np

from loci.errors import LociError
from loci.worlds.tabletop.arms import ARMS, TABLE
from loci.worlds.tabletop.table import CHUNK, COVER, Table

# Where things can be put, x and y in metres: the head camera sees it, and an arm reaches it.
AREA = ((-0.36, 0.36), (0.0, 0.34))
# Chunks that the lamp is kept red for, at most: episodes have limits.
LONGEST = 20
# What stands no higher than this, on a mat or on the table itself, can change under a lid.
_FLAT = TABLE + 0.01

Place = tuple[float, float, float, float]  # of a foot, and its yaw


def movable(table: Table) -> list[int]:
    """The objects that can be moved: those that a gripper can take."""
    return [i for i, thing in enumerate(table.layout.objects) if thing.grip is not None]


def landing(table: Table, item: int, x: float, y: float) -> dict[int, Place]:
    """Where an object would come to stand, put down at (x, y), and the one that it changes places
    with: number -> place. Changes nothing. LociError, in one line, for a place that is no place."""
    s, objects = table.state, table.layout.objects
    thing = objects[item]
    if item not in movable(table):
        names = ", ".join(objects[i].name for i in movable(table)) or "nothing here"
        raise LociError(f"{thing.name} stays where it is; what can be moved: {names}")
    if table.holder(item) >= 0:
        arm = ARMS[table.holder(item)]
        raise LociError(f"the {arm} hand holds {thing.name}; wait until it lets go")
    (left, right), (near, far) = AREA
    if not (left <= x <= right and near <= y <= far):
        raise LociError(
            f"({x:.2f}, {y:.2f}) is out of reach; give x from {left} to {right} and y from {near} "
            f"to {far}"
        )
    there = [other for other in movable(table) if other != item and table.holder(other) < 0
             and _overlap(table, item, other, x, y)]
    close = [other for other in there if np.hypot(*(s.places[other, :2] - (x, y))) < COVER]
    alike = [other for other in close if objects[other].hollow == thing.hollow]
    if alike:
        other = alike[0]
        return {item: _place(table, other), other: _place(table, item)}
    if close and s.places[close[0], 2] < _FLAT:
        # A lid over a block that is free, or a block under a lid that is empty.
        x, y, _, yaw = _place(table, close[0])
        return {item: (x, y, TABLE, yaw)}
    if there:
        raise LociError(f"{objects[there[0]].name} is in the way; choose another place")
    for button in table.layout.buttons:
        if np.hypot(button.at[0] - x, button.at[1] - y) < button.radius + max(thing.half):
            raise LociError(f"the {button.name} is in the way; choose another place")
    return {item: (x, y, TABLE, float(s.yaws[item]))}


def move(table: Table, item: int, x: float, y: float) -> None:
    """Put an object down at (x, y), as `landing` says; it raises what cannot be."""
    s, changed = table.state, landing(table, item, x, y)
    for number, (*foot, yaw) in changed.items():
        s.places[number], s.yaws[number] = foot, yaw
    for number in changed:
        s.places[number, 2] = max(s.places[number, 2], table.support(number))


def check_red(table: Table, chunks: int) -> None:
    """LociError unless the lamp is red and can be kept so for `chunks` chunks longer. A green one
    is left alone: what the robot has begun under it would count as too early."""
    if not 1 <= chunks <= LONGEST:
        raise LociError(f"{chunks} chunks of red; give 1 to {LONGEST}")
    if table.ready:
        raise LociError("the lamp is green; a lamp that is red can be kept so")


def keep_red(table: Table, chunks: int) -> None:
    """Keep the lamp red for `chunks` chunks longer; raises what `check_red` does."""
    check_red(table, chunks)
    table.state.busy += chunks * CHUNK


def _place(table: Table, item: int) -> Place:
    x, y, z = table.state.places[item].tolist()
    return x, y, z, float(table.state.yaws[item])


def _overlap(table: Table, item: int, other: int, x: float, y: float) -> bool:
    """Whether the footprint of an item at (x, y) meets that of another one."""
    halves = np.add(table.layout.objects[item].half, table.layout.objects[other].half)
    return bool((np.abs(table.state.places[other, :2] - (x, y)) < halves).all())
