"""Markers: slow tests run with --slow, gpu tests where CUDA is; what is skipped is reported.

The row of `examples/add_a_memory.py` takes part wherever tests go through the registry, and so do
those of the files that LOCI_ROWS names.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "add_a_memory.py"
os.environ["LOCI_ROWS"] = os.pathsep.join(filter(None, (os.getenv("LOCI_ROWS"), str(EXAMPLE))))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes")
    parser.addoption("--network", action="store_true", help="run the tests that need the network")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "slow": None if config.getoption("--slow") else "slow: run with --slow",
        "network": None if config.getoption("--network") else "network: run with --network",
        "gpu": None if torch.cuda.is_available() else "gpu: no CUDA device here",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))
