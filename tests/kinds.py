"""Which memories a test takes by default, where all of them would take long."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pytest

from loci.memory import Compose, Memory


def choices(memory: Memory) -> Hashable:
    """What tells memories apart but for sizes: the class, and of its settings the words and
    switches, and which numbers are 0."""
    if isinstance(memory, Compose):
        return type(memory), tuple(choices(member) for member in memory.members)
    values = [getattr(memory, field.name) for field in dataclasses.fields(memory)]
    return type(memory), *(
        bool(value) if isinstance(value, int | float) else value for value in values
    )


def one_of_each_kind(
    memories: Mapping[str, Memory], kind: Callable[[Memory], Hashable] = type
) -> list[Any]:
    """Names, for `parametrize`: the first of each kind, those that LOCI_ROWS brings among them; the
    others are slow."""
    seen: set[Hashable] = set()
    found = []
    for name, memory in memories.items():
        marks = [pytest.mark.slow] if kind(memory) in seen else []
        seen.add(kind(memory))
        found.append(pytest.param(name, id=name, marks=marks))
    return found
