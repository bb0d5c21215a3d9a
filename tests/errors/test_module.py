"""What a property of a module raises is what its caller meets."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from torch import nn

import loci
from loci.errors import LociError
from loci.errors.module import Module
from loci.memory import Compose, Hybrid, Memory
from tiny_world import tiny_world


class Example(Module):
    @property
    def width(self) -> int:
        return self.configg.width  # pyrefly: ignore

    @cached_property
    def depth(self) -> int:
        return None.depth  # pyrefly: ignore


def test_an_attribute_error_inside_a_property_keeps_its_message() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'configg'"):
        _ = Example().width
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'depth'"):
        _ = Example().depth
    assert not hasattr(Example(), "height")
    with pytest.raises(AttributeError, match="'Example' object has no attribute 'height'"):
        _ = Example().height  # pyrefly: ignore
    example = Example()
    example.inner = nn.Linear(2, 3)
    assert example.inner.weight.shape == (3, 2)


def test_all_modules_with_properties_are_such() -> None:
    for found in pkgutil.walk_packages(loci.__path__, "loci."):
        importlib.import_module(found.name)
    ours, left = set(), [nn.Module]
    while left:
        subclasses = left.pop().__subclasses__()
        left += subclasses
        ours.update(cls for cls in subclasses if cls.__module__.startswith("loci."))
    assert len(ours) > 15

    def has_properties(cls: type) -> bool:
        return any(
            isinstance(member, property | cached_property)
            for base in cls.__mro__ if base.__module__.startswith("loci.")
            for member in vars(base).values()
        )

    careful = {cls for cls in ours if issubclass(cls, Module) and cls is not Module}
    # Plain ones find their weights without a detour, at every step of every block.
    assert careful == {cls for cls in ours if has_properties(cls)}


@pytest.mark.parametrize(("returned", "line"), [
    (None, r"Odd\.rule\(\) returned None; return a Rule"),
    (lambda query, key: True, r"Odd\.rule\(\) returned a function; return a Rule"),
    (True, r"Odd\.rule\(\) returned a bool; return a Rule"),
])
def test_a_rule_that_is_none_is_refused_wherever_it_is_asked_for(
    returned: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "choices", dict(Memory.choices))

    @dataclass(frozen=True, kw_only=True)
    class Odd(Memory, name="odd"):
        def rule(self) -> Any:
            return returned

    @dataclass(frozen=True, kw_only=True)
    class Broken(Odd, name="broken"):
        def rule(self) -> Any:
            return self.windows  # pyrefly: ignore

    for ask in (
        lambda: Odd().rule(), lambda: tiny_world(Odd()).session(1), lambda: Odd().growth,
        lambda: tiny_world(Odd()).writes,
        lambda: tiny_world(Compose(members=(Odd(), Hybrid()))).session(1),
    ):
        with pytest.raises(LociError, match=line) as caught:
            ask()
        assert "\n" not in str(caught.value)
    with pytest.raises(AttributeError, match="'Broken' object has no attribute 'windows'"):
        _ = tiny_world(Broken()).writes
