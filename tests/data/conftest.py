"""A small set of rooms in Context-as-Memory's layout, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from loci.data.tiny_scenes import make_tiny
from tiny_set import TINY


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of 33 pictures. Nobody writes it."""
    folder = tmp_path_factory.mktemp("scenes") / "tiny"
    make_tiny(folder, 2, TINY, workers=1)
    return folder


@pytest.fixture
def tiny_copy(tiny_set: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_set, tmp_path / "tiny"))
