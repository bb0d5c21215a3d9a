"""A small dataset, and one to damage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from demonstrations import write


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Waiting for the disk is for power cuts, which do not happen here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loci.io.files.os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets") / "demo"
    write(folder, [5, 1, 12])
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    """A dataset to damage."""
    return Path(shutil.copytree(written, tmp_path / "demo"))
