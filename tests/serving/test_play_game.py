"""What people do on the page with world models: walks that close, memories that go along, and a log
that plays it all again."""

from __future__ import annotations

import base64
import json

import pytest
import torch

from loci.errors import LociError
from loci.memory import ROWS
from loci.models.world import KIND
from loci.serving.play.game import Game
from loci.serving.play.scene import Shown
from loci.serving.play.walk import MOVES, Walk
from loci.serving.play.walking import Walking
from loci.worlds.rooms.room import sample_room
from tiny_world import tiny_world

NAMES = ["hybrid", "context-5", "map-channels", "joint-5", "length-4", "delta", "none"]
MODELS = {name: tiny_world(ROWS[name]) for name in NAMES}
BEGIN = {"do": "room", "seed": 3}


def game(*names: str) -> Game:
    return Game(MODELS.__getitem__, dict.fromkeys(names or NAMES, KIND))


def play(one: Game, *events: dict) -> list[Shown]:
    return [shown for event in events for shown in one.do(event)]


def go(move: str, seen: bool) -> dict:
    return {"do": "go", "move": move, "seen": seen}


OUT = [BEGIN, *(go("right", True) for _ in range(3)), go("forward", True)]
BACK = [go("back", False), *(go("left", False) for _ in range(3))]


def test_a_walk_closes_exactly_and_stops_at_walls() -> None:
    walk = Walk(MODELS["none"].config.camera, sample_room(3, "heldout"))
    start = walk.poses[0]
    for move in ["right"] * 8:
        last = walk.go(move, 4, True)
    assert torch.equal(last.poses[-1], start)
    assert last.pictures is not None
    assert torch.equal(last.pictures[-1], walk.stretches[0].pictures[0])
    for _ in range(10):
        last = walk.go("forward", 4, True)
    assert torch.equal(last.poses[0], last.poses[-1])
    assert len(walk) == 1 + 18 * 4
    assert set(MOVES) == {"left", "right", "forward", "back"}


@pytest.mark.parametrize("name", NAMES)
def test_the_log_plays_again_to_the_same_pictures_and_memories(name: str) -> None:
    first = game(name)
    shown = play(first, *OUT, *BACK)
    second = game(name)
    again = play(second, *json.loads(json.dumps(first.scene.log)))
    assert all(torch.equal(a.pictures, b.pictures) for a, b in zip(shown, again, strict=True))
    ours, theirs = (one.scene.companions[1].session.snapshot() for one in (first, second))
    assert all(torch.equal(ours[part], theirs[part]) for part in ours)


def test_who_comes_later_has_taken_the_same_walk() -> None:
    one = game("hybrid", "context-5")
    play(one, *OUT, *BACK)
    play(one, {"do": "add", "name": "context-5"}, {"do": "add", "name": "hybrid"})
    alone = game("context-5")
    play(alone, *OUT, *BACK)
    assert torch.equal(one.scene.companions[2].pictures, alone.scene.companions[1].pictures)
    assert torch.equal(one.scene.companions[3].pictures, one.scene.companions[1].pictures)


def test_what_is_undone_was_never_there() -> None:
    one, other = game("hybrid", "delta"), game("hybrid", "delta")
    play(one, *OUT, go("left", False), {"do": "undo"}, *BACK)
    play(other, *OUT, *BACK)
    assert torch.equal(one.scene.companions[1].pictures, other.scene.companions[1].pictures)
    assert torch.equal(one.scene.walk.poses, other.scene.walk.poses)
    with pytest.raises(LociError, match="only begun"):
        play(game("none"), BEGIN, {"do": "undo"})


def test_a_fork_goes_its_own_way_from_the_same_past() -> None:
    one = game("hybrid")
    play(one, *OUT, {"do": "fork", "number": 1}, {"do": "forget", "number": 2})
    held = [sum(one.scene.companions[number].held.values()) for number in (1, 2)]
    assert held[1] < held[0]
    play(one, *BACK)
    mine, theirs = (one.scene.companions[number].pictures for number in (1, 2))
    seen = len(one.scene.walk) - 4 * len(BACK) // 2
    assert torch.equal(mine[:seen], theirs[:seen])
    assert not torch.equal(mine[seen:], theirs[seen:])


@pytest.mark.parametrize("name", ["hybrid", "joint-5"])
def test_what_is_left_after_forgetting_is_the_last_frame(name: str) -> None:
    one = game(name)
    play(one, *OUT, {"do": "forget", "number": 1})
    last = len(one.scene.walk) - 1
    assert {frame for frames in one.scene.companions[1].kept.values() for frame in frames} <= {last}
    *_, shown = play(one, BACK[0])
    assert shown.moment is not None
    assert set(shown.moment.looked) <= {last}
    assert shown.moment.looked[last] > 0


def test_who_goes_along_is_said_at_the_beginning_and_kept_in_the_log() -> None:
    one = game("hybrid", "none")
    play(one, {**BEGIN, "names": ["none", "hybrid"]})
    assert [each.name for each in one.scene.companions.values()] == ["none", "hybrid"]
    play(one, {"do": "room", "seed": 4})
    assert one.scene.log == [{"do": "room", "seed": 4, "names": ["none", "hybrid"]}]
    for names, line in ((["hybird"], "did you mean 'hybrid'"), ([], "give a list"),
                        ("hybrid", "give a list"), ([["none"]], "no world-model")):
        with pytest.raises(LociError, match=line):
            play(one, {**BEGIN, "names": names})


@pytest.mark.parametrize("name", ["hybrid", "map-channels", "joint-5"])
def test_another_rooms_memory_imagines_something_else(name: str) -> None:
    one, other = game(name), game(name)
    play(one, *OUT, {"do": "exchange", "number": 1, "seed": 11}, *BACK)
    play(other, *OUT, *BACK)
    assert torch.equal(one.scene.walk.poses, other.scene.walk.poses)
    assert not torch.equal(one.scene.companions[1].pictures, other.scene.companions[1].pictures)


@pytest.mark.parametrize("name", ["hybrid", "context-5", "joint-5", "length-4", "none"])
def test_what_was_looked_at_are_shares_of_frames(name: str) -> None:
    one = game(name)
    *_, last = play(one, *OUT, BACK[0])
    assert last.moment is not None
    shares = last.moment.looked
    assert all(0 <= share <= 1 for share in shares.values())
    assert 0 < sum(shares.values()) < 1
    assert max(shares) < len(one.scene.walk) - MODELS[name].config.chunk
    assert (-1 in shares) == (name == "length-4")


def test_a_picture_of_ones_own_is_imagined_onwards() -> None:
    camera = MODELS["hybrid"].config.camera
    rgb = torch.randint(256, (camera.height, camera.width, 3), dtype=torch.uint8)
    picture = {"height": camera.height, "width": camera.width,
               "rgb": base64.b64encode(rgb.numpy()).decode()}
    one = game("hybrid", "map-channels")
    shown = play(one, {"do": "picture", "picture": picture}, go("left", False))
    assert torch.equal(one.scene.companions[1].pictures[0], rgb)
    assert [piece.number for piece in shown] == [None, 1, 1]
    with pytest.raises(LociError, match="close your eyes"):
        play(one, go("left", True))
    with pytest.raises(LociError, match="nobody knows the depth"):
        play(one, {"do": "add", "name": "map-channels"})
    assert len(one.scene.companions) == 1


@pytest.mark.parametrize(("event", "line"), [
    ({}, "nothing to do"), ({"do": "rom"}, "did you mean 'room'"),
    ({"do": "room", "seed": -1}, "whole number"), ({"do": "room", "seed": True}, "whole number"),
    ({"do": "go", "move": "lefft", "seen": True}, "did you mean 'left'"),
    ({"do": "add", "name": "hybird"}, "did you mean 'hybrid'"),
    ({"do": "fork", "number": 7}, "no memory number 7"), ({"do": "forget"}, "no memory number"),
    ({"do": "fork", "number": [1]}, "no memory number"),
    ({"do": "remove", "number": 1}, "somebody has to go along"),
    ({"do": "exchange", "number": 1, "seed": 0.5}, "whole number"),
    ({"do": "picture"}, "no picture"),
    ({"do": "picture", "picture": {"height": 2, "width": 2, "rgb": "AAAA"}}, "no picture"),
    ({"do": "picture", "picture": {"height": 1, "width": 1, "rgb": "AAAA"}}, "the model sees"),
])
def test_what_cannot_be_done_changes_nothing(event: dict, line: str) -> None:
    one = game()
    play(one, *OUT)
    before, log = one.state(), list(one.scene.log)
    with pytest.raises(LociError, match=line):
        play(one, event)
    assert one.scene.log == log
    assert one.state() == before


def test_nothing_is_done_before_a_walk_begins() -> None:
    for what in Walking.deeds:
        with pytest.raises(LociError, match="nothing has begun"):
            play(game(), {"do": what})


def test_a_step_that_one_of_them_cannot_take_is_taken_by_nobody(monkeypatch) -> None:
    one, other = game("hybrid", "none"), game("hybrid", "none")
    for each in (one, other):
        play(each, *OUT, {"do": "add", "name": "none"})
    with monkeypatch.context() as patch:
        patch.setattr(one.scene.companions[2], "follow", None)
        with pytest.raises(TypeError):
            play(one, BACK[0])
    for each in (one, other):
        play(each, *BACK)
    for number in (1, 2):
        mine, theirs = (each.scene.companions[number].pictures for each in (one, other))
        assert torch.equal(mine, theirs)
