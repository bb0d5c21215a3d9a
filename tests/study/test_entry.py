"""Entries: weights of another recipe are never scored, and what ships is used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loci.errors import LociError
from loci.io.bundled import bundled as shipped
from loci.io.checkpoint import load_checkpoint, save_checkpoint
from loci.recipes import registry
from loci.recipes.registry import find_recipe
from loci.study import entry as entries
from loci.study.entry import Variant, find, train
from loci.training.trainer import Stopped

# It ships, and its training is recorded with the settings of then.
ROW = Variant("delta", "rooms-delta", "delta")
RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of the rooms' recipe that are other than they were."""
    changes: dict[str, Any] = {}
    plain = registry.rooms
    monkeypatch.setattr(
        registry, "rooms", lambda memory: replace(plain(memory), **changes)
    )
    return changes


def trained(out: Path) -> Path:
    """What ships, as if it had been trained in a study's folder."""
    folder = out / "training" / ROW.name
    folder.mkdir(parents=True)
    shutil.copy(shipped(ROW.ships), folder / "model.safetensors")
    shutil.copy(RESULTS / "families" / "training" / ROW.name / "config.json", folder)
    return folder


def test_what_lies_in_the_folder_comes_before_what_ships(tmp_path: Path) -> None:
    found = find(ROW, tmp_path)
    assert found is not None
    assert (found.source, found.note["config"]) == ("shipped", found.model.config.hash())
    folder = trained(tmp_path)
    here = find(ROW, tmp_path, from_scratch=True)
    assert here is not None
    assert here.source == "trained here"
    note = json.loads((folder / "row.json").read_text())
    assert note == here.note == found.note
    # Its note stays valid when the weights are gone; those that ship are the same.
    (folder / "model.safetensors").unlink()
    kept, alone = find(ROW, tmp_path), find(ROW, tmp_path, from_scratch=True)
    assert kept is not None
    assert alone is not None
    assert kept.note == alone.note == note
    assert kept.model.config == alone.measured.config
    with pytest.raises(LociError, match=r"weights of 'delta' are gone; delete .*delta to train it"):
        _ = alone.model
    assert find(ROW, tmp_path / "empty", from_scratch=True) is None


@pytest.mark.parametrize("weights", [True, False])
def test_a_run_of_another_recipe_is_not_scored_but_put_aside(
    tmp_path: Path, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, weights: bool
) -> None:
    folder = trained(tmp_path)
    assert find(ROW, tmp_path, from_scratch=True) is not None
    if not weights:
        (folder / "model.safetensors").unlink()
    changed["batch"] = 5
    assert find(ROW, tmp_path, from_scratch=True) is None
    ran: list[str] = []

    def run(recipe: str, out: Path, resume: bool) -> None:
        ran.append(recipe)
        raise Stopped("stopped at step 3 of 9, saved in x")

    monkeypatch.setattr(entries, "run_recipe", run)
    with (
        pytest.warns(UserWarning, match="another recipe by now; the old run: .*delta\\."),
        pytest.raises(KeyboardInterrupt, match=r"^stopped at step 3 of 9, saved in x$"),
    ):
        train(ROW, tmp_path)
    assert ran == [ROW.recipe]
    (aside,) = (tmp_path / "training").iterdir()
    assert (aside / "row.json").exists()
    assert (aside / "model.safetensors").exists() == weights


def test_weights_without_settings_must_be_the_recipes(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    folder = trained(tmp_path)
    (folder / "config.json").unlink()
    there, run = load_checkpoint(folder / "model.safetensors", "world-model"), ROW.run()
    notes = there.metadata["training"] | {"protocol": {"config": run.hash()}}
    save_checkpoint(
        folder / "model.safetensors", "world-model", run.world, there.tensors, dtype=None, **notes
    )
    assert find(ROW, tmp_path, from_scratch=True) is not None
    changed["batch"] = 5
    with pytest.raises(LociError, match=r"was made by another recipe; delete .*delta to train"):
        find(ROW, tmp_path)


def test_a_checkpoint_that_ships_counts_for_its_own_model_alone(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    changed["batch"] = 5
    assert find(ROW, tmp_path) is not None
    changed["world"] = replace(find_recipe(ROW.recipe)().world, steps=3)
    assert find(ROW, tmp_path) is None


def test_policies_that_ship_are_not_trained_again(tmp_path: Path) -> None:
    name = "cover-blocks-hybrid"
    found = find(Variant(name, name, name), tmp_path)
    assert found is not None
    assert found.source == "shipped"
    # As the shipped study knows it: what it played counts.
    kept = json.loads((RESULTS / "wam" / "training" / name / "row.json").read_text())
    assert {k: kept[k] for k in ("recipe", "weights", "checkpoint", "config", "parameters")} == {
        k: found.note[k] for k in ("recipe", "weights", "checkpoint", "config", "parameters")
    }


def test_damaged_notes_are_named(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    (folder / "row.json").write_text("{")
    with pytest.raises(LociError, match=r"row\.json is damaged"):
        find(ROW, tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(LociError, match=r"config\.json cannot be read .*choose another folder"):
        find(ROW, tmp_path)
