"""What people do on the page with policies: episodes step by step, things that are moved, memories
that are emptied."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import loci
from loci.errors import LociError
from loci.memory import ROWS
from loci.models import world, world_action
from loci.serving.play.game import Game
from loci.serving.play.robot import Robot
from loci.serving.play.scene import Shown
from loci.study.tabletop.closed_loop import Loop
from loci.study.tabletop.closed_loop import play as play_episodes
from loci.worlds.tabletop.env import Tabletop
from loci.worlds.tabletop.table import CHUNK, TABLE
from tiny_policy import MEMORIES
from tiny_robot import tiny_robot
from tiny_world import tiny_world

MODELS = {name: tiny_robot(MEMORIES[name]) for name in ("hybrid", "hybrid-acts", "window")}
COVER = {"cover": tiny_robot(MEMORIES["hybrid"], "cover-blocks")}
BEGIN = {"do": "task", "seed": 3}
LOOK = {"do": "step", "steps": CHUNK}
MOVE = {"do": "move", "thing": "block", "x": -0.15, "y": 0.3}


def game(*names: str) -> Game:
    both = MODELS | COVER | {"room": tiny_world(ROWS["none"])}
    kinds = dict.fromkeys(names or MODELS, world_action.KIND)
    return Game(both.__getitem__, kinds | {"room": world.KIND})


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch) -> None:
    """To render takes most of the time."""
    monkeypatch.setattr("loci.serving.play.robot.PICTURE", 4)


def play(one: Game, *events: dict[str, Any]) -> list[Shown]:
    return [shown for event in events for shown in one.do(event)]


def robot(one: Game, number: int = 1) -> Robot:
    return one.scene.companions[number]


class Recorded(Tabletop):
    """A table that writes down what is done on it."""

    actions: list[np.ndarray] = []  # noqa: RUF012 (of all)

    def advance(self, action: np.ndarray):
        self.actions.append(action.copy())
        return super().advance(action)


def test_a_whole_episode_has_the_actions_of_the_closed_loop(monkeypatch) -> None:
    name = "hybrid-acts"
    wanted: list[np.ndarray] = []
    with monkeypatch.context() as patch:
        patch.setattr(Recorded, "actions", wanted)
        (line,) = play_episodes(MODELS[name], lambda: Recorded("put-back-block"), Loop(), [3])
    made: list[np.ndarray] = []
    monkeypatch.setattr(Recorded, "actions", made)
    monkeypatch.setattr("loci.serving.play.robot.Tabletop", Recorded)
    one = game(name)
    play(one, BEGIN)
    while not robot(one).over:
        robot(one).step()
    assert len(made) == len(wanted)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(made, wanted, strict=True))
    state = one.state()["companions"][0]
    assert state["failure"] == line["failure"]
    assert state["looks"] == line["chunks"]
    assert list(state["reached"]) == [stage for stage, done in line["stages"].items() if done]
    for event in (LOOK, MOVE, {"do": "lamp", "chunks": 1}):
        with pytest.raises(LociError, match="the episode is over"):
            play(one, event)


def test_steps_come_one_by_one_or_many_at_once_to_the_same() -> None:
    one, other = game("hybrid"), game("hybrid")
    shown = play(one, BEGIN, *[{"do": "step", "steps": 1}] * (CHUNK + 3))
    assert one.scene.log == [
        {"do": "task", "seed": 3, "names": ["hybrid"], "task": "put-back-block"},
        {"do": "step", "steps": CHUNK + 3},
    ]
    again = play(other, *json.loads(json.dumps(one.scene.log)))
    assert torch.equal(shown[-1].pictures[-1], again[-1].pictures[-1])
    mine, theirs = (robot(each).policy.snapshot() for each in (one, other))
    assert all(torch.equal(mine[part], theirs[part]) for part in mine)
    assert one.state() == other.state()
    # Pictures on the way, and what it looked at at the end of the chunk.
    chunk = again[1]
    assert len(chunk.pictures) == CHUNK // 4
    assert list(chunk.frames) == [CHUNK // 4 - 1]
    assert torch.equal(chunk.pictures[-1], robot(other).pictures[1])
    assert chunk.moment is not None
    assert set(chunk.moment.times) == {"look", "act"}


def test_shares_are_those_of_looks_that_are_kept() -> None:
    one = game("hybrid")
    play(one, BEGIN, *[LOOK] * 5)
    held, looked = robot(one).kept, robot(one).moment.looked
    assert robot(one).looks == 6
    assert held["gist"] == [0, 1, 2, 3, 4, 5]
    assert held["clean"] == [0, 1, 4, 5]
    assert set(looked) == set(range(6))
    assert 0 < sum(looked.values()) < 1
    assert min(looked.values()) > 0


def test_a_moved_block_is_where_it_was_put_and_the_next_look_says_whether_it_was_seen() -> None:
    one = game("hybrid")
    play(one, BEGIN, {"do": "step", "steps": 5})
    (shown,) = play(one, MOVE)
    block = one.state()["companions"][0]["table"]["objects"][0]
    assert (block["name"], block["x"], block["y"]) == ("block", -0.15, 0.3)
    assert robot(one).env.table.state.places[0].tolist() == [-0.15, 0.3, TABLE]
    assert torch.equal(shown.pictures[0], robot(one).picture())
    (note,) = robot(one).notes
    assert (note.step, note.after, note.first) == (5, None, None)
    assert "head" in note.now
    play(one, {"do": "step", "steps": CHUNK - 5})
    (note,) = robot(one).notes
    assert "head" in note.after
    assert note.first == 1
    # The same memory, had it looked at the same table.
    other = game("hybrid")
    play(other, BEGIN, LOOK)
    assert not torch.equal(robot(one).pictures[1], robot(other).pictures[1])


def test_what_changes_under_lids_is_seen_by_nobody() -> None:
    one = game("cover")
    play(one, BEGIN)
    env = robot(one).env
    for number in range(3):
        at = env.table.state.places[number, :2].tolist()
        play(one, {"do": "move", "thing": f"lid {number}", "x": at[0], "y": at[1]})
    red, blue = (env.table.state.places[i, :2].tolist() for i in (0, 2))
    play(one, {"do": "move", "thing": env.table.layout.objects[0].name, "x": blue[0], "y": blue[1]})
    assert env.table.state.places[0, :2].tolist() == blue
    assert env.table.state.places[2, :2].tolist() == red
    play(one, LOOK)
    note = robot(one).notes[-1]
    assert (note.now, note.after, note.first) == ((), (), None)


@pytest.mark.parametrize(("event", "line"), [
    ({**MOVE, "thing": "blok"}, "did you mean 'block'"), ({**MOVE, "y": 0.6}, "out of reach"),
    ({**MOVE, "x": float("nan")}, "give a number"), ({**MOVE, "x": True}, "give a number"),
    ({"do": "move", "thing": "block"}, "give a number"), ({**MOVE, "thing": "centre"}, "stays"),
    ({"do": "step", "steps": 0}, "whole number from 1"), ({"do": "lamp", "chunks": 1}, "green"),
    ({"do": "lamp", "chunks": 99}, "whole number"), ({"do": "go", "move": "left"}, "nothing to do"),
    ({"do": "add", "name": "hybrd"}, "did you mean 'hybrid'"),
    ({"do": "add", "name": "room"}, "no model 'room' here"),
    ({**BEGIN, "task": "put-back-blok"}, "did you mean 'put-back-block'"),
    ({**BEGIN, "seed": 1_000_000}, "whole number"), ({**BEGIN, "cue": [7]}, "has no cue"),
    ({**BEGIN, "cue": "2"}, "list of whole numbers"), ({**BEGIN, "hold": 0}, "whole number"),
    ({**BEGIN, "names": ["room"]}, "no world-action-model 'room'"),
    ({**BEGIN, "instruction": "put it back"}, "reads no instructions"),
])
def test_what_cannot_be_done_changes_nothing(event: dict, line: str) -> None:
    one = game("hybrid", "window")
    play(one, BEGIN, {"do": "add", "name": "window"}, {"do": "step", "steps": 3})
    before = json.dumps(one.state())
    with pytest.raises(LociError, match=line) as caught:
        play(one, event)
    assert "\n" not in str(caught.value)
    assert json.dumps(one.state()) == before


def test_two_memories_play_the_same_episode_and_the_later_one_follows() -> None:
    one, alone = game("hybrid", "window"), game("window")
    play(one, BEGIN, {"do": "step", "steps": 7}, MOVE, LOOK, {"do": "add", "name": "window"}, LOOK)
    play(alone, BEGIN, {"do": "step", "steps": 7}, MOVE, LOOK, LOOK)
    assert torch.equal(robot(one, 2).pictures, robot(alone).pictures)
    ours, theirs = (each.policy.snapshot() for each in (robot(one, 2), robot(alone)))
    assert all(torch.equal(ours[part], theirs[part]) for part in ours)
    assert torch.equal(robot(one).pictures[0], robot(alone).pictures[0])


def test_an_emptied_memory_holds_the_last_look_and_acts_otherwise() -> None:
    one = game("hybrid-acts")
    play(one, BEGIN, *[LOOK] * 4, {"do": "step", "steps": 3}, {"do": "fork", "number": 1})
    play(one, {"do": "forget", "number": 2})
    full, empty = robot(one, 1), robot(one, 2)
    assert empty.policy.lengths == [1]
    assert {look for looks in empty.kept.values() for look in looks} == {4}
    assert sum(empty.held.values()) < sum(full.held.values())
    play(one, {"do": "step", "steps": CHUNK - 3})
    # What it had begun is carried out; from the next look on it does something else.
    assert torch.equal(full.pictures[:6], empty.pictures[:6])
    assert set(empty.moment.looked) == {4, 5}
    play(one, LOOK)
    states = [each.env.table.state.joints for each in (full, empty)]
    assert not np.array_equal(*states)
    assert [note.what for note in empty.notes] == ["memory emptied"]


@pytest.mark.slow
def test_a_policy_that_ships_fails_once_its_memory_is_emptied() -> None:
    name = "put-back-block-hybrid"
    one = Game(loci.load, {name: world_action.KIND})
    play(one, {"do": "task", "seed": 0}, {"do": "step", "steps": 80}, {"do": "fork", "number": 1})
    play(one, {"do": "forget", "number": 2}, {"do": "step", "steps": 1000})
    ends = [(each["success"], each["failure"]) for each in one.state()["companions"]]
    assert ends == [(True, ""), (False, "not placed")]


def test_a_variant_is_chosen_and_a_walk_comes_after_an_episode() -> None:
    one = game("hybrid")
    play(one, {**BEGIN, "cue": [2], "hold": 2})
    told = one.state()["task"]
    assert (told["cue"], told["hold"], told["name"]) == ((2,), 2, "put-back-block")
    assert one.state()["companions"][0]["trained"]
    play(one, {**BEGIN, "task": "press-button"}, {"do": "lamp", "chunks": 3})
    assert not one.state()["companions"][0]["trained"]
    assert robot(one).notes[0].what == "lamp kept red for 3 chunks longer"
    play(one, {"do": "room", "seed": 3})
    assert one.state()["room"]["seed"] == 3
    with pytest.raises(LociError, match="nothing to do here called 'move'"):
        play(one, MOVE)
    play(one, BEGIN)
    assert one.state()["task"]["name"] == "put-back-block"
