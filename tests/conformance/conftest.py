"""Every row of the registry and every composition, with its camera entering in one of the two ways,
in turn; `--slow` takes both."""

from __future__ import annotations

import pytest

from loci.models.world import WorldModel
from tiny_world import MEMORIES, ROW_NAMES, tiny_world


@pytest.fixture(params=ROW_NAMES)
def row_name(request) -> str:
    return request.param


@pytest.fixture(params=[
    pytest.param((name, camera), id=f"{camera}-{name}", marks=[pytest.mark.slow] * (turn % 2))
    for number, name in enumerate(ROW_NAMES)
    for turn, camera in enumerate(("rotary", "inject"), number)
])
def model(request) -> WorldModel:
    name, camera = request.param
    return tiny_world(MEMORIES[name], camera)
