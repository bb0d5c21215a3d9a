"""Every row of the registry, in every way a camera may enter."""

from __future__ import annotations

import pytest

from loci.memory import ROWS
from loci.models.world import WorldModel
from tiny_world import ROW_NAMES, tiny_world


@pytest.fixture(params=ROW_NAMES)
def row_name(request) -> str:
    return request.param


@pytest.fixture(params=["rotary", "inject"])
def model(row_name, request) -> WorldModel:
    return tiny_world(ROWS[row_name], request.param)
