"""Configurations: JSON and back, families, and messages that name the fix."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loci.config import DESCRIPTIONS, Config, added_field, settings_hash
from loci.errors import LociError


@dataclass(frozen=True, kw_only=True)
class Shape(Config, family=True):
    colour: str = "red"


@dataclass(frozen=True, kw_only=True)
class Ball(Shape, name="ball"):
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Brick(Shape, name="brick"):
    sides: tuple[float, float, float] = (1.0, 2.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class HeavyBrick(Brick, name="heavy-brick"):
    mass: float = 9.0


@dataclass(frozen=True, kw_only=True)
class Nameless(Brick):
    pass


@dataclass(frozen=True, kw_only=True)
class Scene(Config):
    shape: Shape
    others: tuple[Shape, ...] = ()
    size: int = 64
    scale: float = 1.0
    limit: float | None = None
    mode: Literal["fast", "exact"] = "fast"
    tags: tuple[str, ...] = ()
    weights: dict[str, float] | None = None


shapes = st.one_of(
    st.builds(Ball, colour=st.text(max_size=5), radius=st.floats(-9, 9)),
    st.builds(Brick, sides=st.tuples(*[st.floats(-9, 9)] * 3)),
    st.builds(HeavyBrick, mass=st.floats(0, 9)),
)
scenes = st.builds(
    Scene,
    shape=shapes,
    others=st.lists(shapes, max_size=3).map(tuple),
    size=st.integers(),
    scale=st.one_of(st.floats(-9, 9), st.integers(-9, 9)),
    limit=st.one_of(st.none(), st.floats(-9, 9), st.integers(-9, 9)),
    mode=st.sampled_from(["fast", "exact"]),
    tags=st.lists(st.text(max_size=4), max_size=3).map(tuple),
    weights=st.one_of(st.none(), st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=2)),
)


@given(scenes)
def test_json_and_back_is_the_same_configuration(scene: Scene) -> None:
    again = Scene.from_json(scene.to_json())
    assert again == scene
    assert again.hash() == scene.hash()
    assert again.to_json() == scene.to_json()


def test_a_choice_comes_back_as_its_own_class() -> None:
    assert Shape.from_dict({"type": "ball", "radius": 2}) == Ball(radius=2.0)
    assert type(Shape.from_dict(HeavyBrick().to_dict())) is HeavyBrick
    assert Ball.from_dict({"radius": 3.0}) == Ball(radius=3.0)
    assert Brick.from_dict(HeavyBrick().to_dict()) == HeavyBrick()


def test_the_hash_changes_with_any_setting_and_not_with_spelling() -> None:
    base = Scene(shape=Ball())
    assert len(base.hash()) == 12
    assert base.hash() != Scene(shape=Ball(radius=1.5)).hash()
    assert base.hash() != Scene(shape=Brick()).hash()
    assert base.hash() == Scene(shape=Ball(radius=1), scale=1).hash()


def test_settings_in_json_have_the_hash_of_their_configuration() -> None:
    """Wherever in them something stands that only describes."""
    base = Scene(shape=Ball())
    assert settings_hash(json.loads(base.to_json())) == base.hash()
    name = DESCRIPTIONS[0]
    bare, changed = {"parts": [{"size": 3}]}, {"parts": [{"size": 4}]}
    described = {"parts": [{"size": 3, name: {"rate": 20.0}}], name: None}
    assert settings_hash(described) == settings_hash(bare) != settings_hash(changed)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"shape": {"type": "ball"}, "sise": 3}, ["'sise'", "did you mean 'size'"]),
        ({"shape": {"type": "bal"}}, ["Shape 'bal'", "did you mean 'ball'", "heavy-brick"]),
        ({"shape": {"radius": 2.0}}, ["lacks the key 'type'", "ball"]),
        ({}, ["lacks the key 'shape'"]),
        ({"shape": {"type": "ball", "radius": "2"}}, ['Ball.radius is a text ("2"); give a num']),
        ({"shape": {"type": "ball"}, "size": 1.5}, ["size is a number (1.5); give a whole num"]),
        ({"shape": {"type": "ball"}, "size": True}, ["size is a truth value (true); give a who"]),
        ({"shape": {"type": "ball"}, "limit": "x"}, ['Scene.limit is a text ("x"); give a num']),
        ({"shape": {"type": "ball"}, "mode": "fasd"}, ["did you mean 'fast'"]),
        ({"shape": {"type": "brick", "sides": [1, 2]}}, ["Brick.sides has 2 values; give 3"]),
        ({"shape": {"type": "ball"}, "tags": "a"}, ['Scene.tags is a text ("a"); give a list']),
        ({"shape": {"type": "ball"}, "weights": [1]}, ["weights is a list ([1]); give a map"]),
        ({"shape": {"type": "ball"}, "weights": {"a": "b"}}, ["Scene.weights.a is a text"]),
        ({"shape": 3}, ["settings of Shape are a whole number (3)", 'give a map, {"type": ...']),
        ({"shape": {"type": "ball"}, "size": None}, ["Scene.size is nothing (null); give a"]),
        ({"shape": {"type": "ball"}, "tags": {"a": 60 * "b"}}, ["Scene.tags is a map; give"]),
    ],
)
def test_bad_settings_are_named_in_one_line(data: dict, words: list[str]) -> None:
    with pytest.raises(LociError) as caught:
        Scene.from_dict(data)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_choice_of_another_branch_is_refused() -> None:
    with pytest.raises(LociError, match="unknown Ball 'brick'"):
        Ball.from_dict({"type": "brick"})


def test_text_that_is_not_json_names_the_line() -> None:
    with pytest.raises(LociError, match="line 2"):
        Scene.from_json('{"size": 3,\n oops}')


def test_declarations_that_could_not_come_back_are_refused() -> None:
    with pytest.raises(LociError, match="no name in its family"):
        Nameless().to_dict()
    with pytest.raises(LociError, match="two configurations are called 'ball'"):

        class Ball2(Shape, name="ball"):
            pass

    with pytest.raises(LociError, match="no family"):

        class Orphan(Config, name="orphan"):
            pass


def test_values_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(LociError, match="int64"):
        Scene(shape=Ball(), size=np.int64(3)).to_dict()  # pyrefly: ignore


def test_a_setting_that_came_later_changes_nothing_at_its_default():
    """Neither what is written nor the hash; any other value does, and comes back."""
    @dataclass(frozen=True, kw_only=True)
    class Before(Config):
        size: int = 3

    @dataclass(frozen=True, kw_only=True)
    class After(Config):
        size: int = 3
        extra: int = added_field(0)

    assert After().to_dict() == Before().to_dict()
    assert After().hash() == Before().hash()
    assert After.from_json(Before().to_json()) == After()
    changed = After(extra=2)
    assert changed.hash() != After().hash()
    assert After.from_json(changed.to_json()) == changed
