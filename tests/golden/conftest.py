"""The longest test begins, so that the processes of pytest-xdist end together."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE, LONGEST = Path(__file__).parent, "test_tiny_studies"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Of all items, only those of this folder change places, among themselves.
    places = [n for n, item in enumerate(items) if item.path.parent == HERE]
    ordered = sorted((items[n] for n in places), key=lambda item: item.path.stem != LONGEST)
    for n, item in zip(places, ordered, strict=True):
        items[n] = item
