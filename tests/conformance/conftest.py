"""Every kind of memory in the registry and every composition, with the camera entering in one of
two ways, in turn; `--slow` takes every row, in both ways."""

from __future__ import annotations

import pytest

from kinds import choices, one_of_each_kind
from loci.models.world import WorldModel
from tiny_world import MEMORIES, ROW_NAMES, tiny_world

NAMES = one_of_each_kind({name: MEMORIES[name] for name in ROW_NAMES}, choices)


@pytest.fixture(params=NAMES)
def row_name(request) -> str:
    return request.param


@pytest.fixture(params=[
    pytest.param(
        (*name.values, camera), id=f"{camera}-{name.id}",
        marks=[*name.marks, *[pytest.mark.slow] * (turn % 2)],
    )
    for number, name in enumerate(NAMES)
    for turn, camera in enumerate(("rotary", "inject"), number)
])
def model(request) -> WorldModel:
    name, camera = request.param
    return tiny_world(MEMORIES[name], camera)
