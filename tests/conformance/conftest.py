"""Every kind of memory in the registry and every composition, with the camera entering in one of
two ways, in turn; `--slow` takes every row, in both ways.

What a row does by its rule, its states and its stores is tested with each combination of settings
(`model`), what streams do for all rows alike with one row of each class (`stream_model`).
"""

from __future__ import annotations

from typing import Any

import pytest

from kinds import choices, one_of_each_kind
from loci.models.world import WorldModel
from tiny_world import MEMORIES, ROW_NAMES, tiny_world

ROWS = {name: MEMORIES[name] for name in ROW_NAMES}
OF_CHOICES, OF_CLASSES = one_of_each_kind(ROWS, choices), one_of_each_kind(ROWS)


def with_cameras(names: list[Any]) -> list[Any]:
    """Rows with one way of the camera by default, the other slow."""
    return [
        pytest.param(
            (*name.values, camera), id=f"{camera}-{name.id}",
            marks=[*name.marks, *[pytest.mark.slow] * (turn % 2)],
        )
        for number, name in enumerate(names)
        for turn, camera in enumerate(("rotary", "inject"), number)
    ]


@pytest.fixture(params=OF_CHOICES)
def row_name(request) -> str:
    return request.param


@pytest.fixture(params=with_cameras(OF_CHOICES))
def model(request) -> WorldModel:
    name, camera = request.param
    return tiny_world(MEMORIES[name], camera)


@pytest.fixture(params=with_cameras(OF_CLASSES))
def stream_model(request) -> WorldModel:
    name, camera = request.param
    return tiny_world(MEMORIES[name], camera)
