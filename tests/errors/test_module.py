"""What a property of a module raises is what its caller meets."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
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


def test_all_modules_of_ours_are_such() -> None:
    for found in pkgutil.walk_packages(loci.__path__, "loci."):
        importlib.import_module(found.name)
    ours, left = [], [nn.Module]
    while left:
        subclasses = left.pop().__subclasses__()
        left += subclasses
        ours += [cls for cls in subclasses if cls.__module__.startswith("loci.")]
    assert len(set(ours)) > 15
    assert [cls.__name__ for cls in ours if not issubclass(cls, Module)] == []


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


def test_layers_and_weights_are_found_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked up at every step of every block."""

    class Block(Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("table", torch.zeros(2))

    block = Block()
    monkeypatch.setattr(inspect, "getattr_static", None)
    assert block.layer.weight.shape == (2, 2)
    assert block.table.shape == (2,)
