"""Every row of the registry and every composition, in every way a camera may enter."""

from __future__ import annotations

import pytest

from loci.models.world import WorldModel
from tiny_world import MEMORIES, ROW_NAMES, tiny_world


@pytest.fixture(params=ROW_NAMES)
def row_name(request) -> str:
    return request.param


@pytest.fixture(params=["rotary", "inject"])
def model(row_name, request) -> WorldModel:
    return tiny_world(MEMORIES[row_name], request.param)
