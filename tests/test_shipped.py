"""What ships is what the recipes say and what the results were made with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import loci
from loci.models.world import WorldModel
from loci.training.recipes import recipes
from loci.training.world import WorldRun

CHECKPOINTS = sorted(
    path
    for path in (Path(loci.__file__).parent / "checkpoints").glob("*.safetensors")
    if path.stem != "codec"
)
RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_a_shipped_row_is_its_recipes_and_the_one_of_the_results(path: Path) -> None:
    assert path.stat().st_size < 3_000_000
    run = recipes()[f"rooms-{path.stem}"]()
    assert isinstance(run, WorldRun)
    found = WorldModel.load(path)
    assert found.config == run.world
    measured = {
        json.loads(file.read_text())["protocol"]["rows"].get(path.stem, {}).get("checkpoint_sha256")
        for file in (RESULTS / "ground/results.json", RESULTS / "families/results.json")
    }
    assert hashlib.sha256(path.read_bytes()).hexdigest() in measured
