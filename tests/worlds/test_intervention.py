"""What a person does to the table: things lie where they were put, or nothing has changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.worlds.tabletop.arms import REST, RIGHT, TABLE
from loci.worlds.tabletop.env import Tabletop
from loci.worlds.tabletop.intervention import AREA
from loci.worlds.tabletop.motion_primitives import above, dip, go
from loci.worlds.tabletop.objects import BLUE, RED, block, lid, on_table
from loci.worlds.tabletop.table import CHUNK, Layout, Table

STILL = REST.reshape(-1)


def begun(task: str, seed: int = 3) -> Tabletop:
    env = Tabletop(task)
    env.begin(seed)
    return env


def foot(env: Tabletop, name: str) -> list[float]:
    names = [thing.name for thing in env.table.layout.objects]
    return env.table.state.places[names.index(name)].tolist()


def covered() -> Tabletop:
    """Cover Blocks, with a lid over each block."""
    env = begun("cover-blocks")
    for number, color in enumerate(["red", "green", "blue"]):
        env.move(f"lid {number}", *foot(env, color)[:2])
    return env


def test_a_block_lies_where_it_was_put_and_cameras_see_it_there() -> None:
    env = begun("put-back-block")
    before = env.observe()["pixels"]["head"]
    env.move("block", -0.15, 0.3)
    assert foot(env, "block") == [-0.15, 0.3, TABLE]
    assert (env.observe()["pixels"]["head"] != before).any()
    assert "head" in env.seen_by("block")
    x, y, _ = foot(env, "mat 1")
    env.move("block", x, y)
    assert foot(env, "block") == [x, y, TABLE + 0.004]
    env.advance(STILL)
    assert foot(env, "block") == [x, y, TABLE + 0.004]
    # It is in the state, and so in its snapshot.
    other = begun("put-back-block", 9)
    other.restore(env.snapshot())
    assert foot(other, "block") == foot(env, "block")


@settings(max_examples=30, deadline=None)
@given(x=st.floats(), y=st.floats())
def test_a_place_is_taken_or_nothing_changes(x: float, y: float) -> None:
    env = begun("put-back-block")
    before, state = env.snapshot(), env.table.state
    (left, right), (near, far) = AREA
    try:
        env.move("block", x, y)
    except LociError:
        assert env.snapshot() == before
    else:
        assert state.places[0, :2].tolist() == [x, y]
        assert left <= x <= right
        assert near <= y <= far


@pytest.mark.parametrize(("name", "place", "line"), [
    ("blok", (0.0, 0.3), "did you mean 'block'"), ("centre", (0.0, 0.3), "stays where it is"),
    ("block", (0.0, 0.5), "out of reach"), ("block", (float("nan"), 0.1), "out of reach"),
    ("block", (-0.24, 0.13), "the button is in the way"),
])
def test_what_is_refused_is_said_in_a_line(name: str, place: tuple, line: str) -> None:
    env = begun("put-back-block")
    before = env.snapshot()
    for deed in (env.check_move, env.move):
        with pytest.raises(LociError, match=line):
            deed(name, *place)
    assert env.snapshot() == before


def test_lids_close_over_blocks_and_what_is_under_two_of_them_changes_unseen() -> None:
    env = covered()
    assert [env.table.under(lid) for lid in (3, 4, 5)] == [
        [thing.name for thing in env.table.layout.objects].index(color)
        for color in ("red", "green", "blue")
    ]
    assert env.seen_by("red") == ()
    assert "head" in env.seen_by("lid 0")
    before, red, blue = env.observe()["pixels"], foot(env, "red"), foot(env, "blue")
    env.move("red", *blue[:2])
    assert (foot(env, "red"), foot(env, "blue")) == (blue, red)
    for camera, picture in env.observe()["pixels"].items():
        np.testing.assert_array_equal(picture, before[camera])
    for _ in range(2):
        env.advance(STILL)
    assert env.table.state.task["under"] == [
        env.table.under(3), env.table.under(4), env.table.under(5)
    ]
    # Out from under a lid, and back under it.
    env.move("green", 0.0, 0.32)
    assert env.table.under(4) == -1
    assert "head" in env.seen_by("green")
    env.move("green", *foot(env, "lid 1")[:2])
    assert env.seen_by("green") == ()
    with pytest.raises(LociError, match="in the way"):
        env.move("green", foot(env, "lid 2")[0] + 0.05, foot(env, "lid 2")[1])


def test_nothing_is_taken_out_of_a_hand() -> None:
    table = Table(Layout((block("block", RED, on_table(0.1, 0.15)),
                          lid("lid", BLUE, on_table(-0.2, 0.1)))))
    env = begun("put-back-block")
    env.table = table
    for action in [*go(table, {RIGHT: (above(table.grip(0)), 1.0)}),
                   *dip(table, RIGHT, table.grip(0), 1.0, 0.0)]:
        table.advance(action)
    assert table.holder(0) == RIGHT
    before = table.state.places.copy()
    with pytest.raises(LociError, match="the right hand holds block"):
        env.move("block", 0.0, 0.3)
    np.testing.assert_array_equal(table.state.places, before)


def test_a_red_lamp_is_kept_red_and_a_green_one_is_not_changed() -> None:
    env, other = begun("press-button"), begun("press-button")
    env.keep_red(2)
    red = [0, 0]
    for number, each in enumerate((env, other)):
        while not each.table.ready:
            each.advance(STILL)
            red[number] += 1
    assert red[0] == red[1] + 2 * CHUNK
    with pytest.raises(LociError, match="the lamp is green"):
        env.keep_red(1)
    with pytest.raises(LociError, match="give 1 to"):
        other.keep_red(0)


def test_after_the_end_nobody_changes_anything() -> None:
    env = begun("put-back-block")
    env.table.state.failure = "wrong mat"
    for deed in (lambda: env.move("block", 0.0, 0.3), lambda: env.keep_red(1)):
        with pytest.raises(LociError, match="is over"):
            deed()
