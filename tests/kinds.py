"""Which memories a test takes by default, where all of them would take long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from loci.memory import Memory


def one_of_each_kind(memories: Mapping[str, Memory]) -> list[Any]:
    """Names, for `parametrize`: the first of each class, those that LOCI_ROWS brings among them;
    the others, which differ in their settings, are slow."""
    seen: set[type] = set()
    found = []
    for name, memory in memories.items():
        marks = [pytest.mark.slow] if type(memory) in seen else []
        seen.add(type(memory))
        found.append(pytest.param(name, id=name, marks=marks))
    return found
