"""`loci eval closed-loop`: one policy at one task, by its checkpoint."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loci.commands import main as cli
from loci.commands.closed_loop import closed_loop
from loci.errors import LociError
from loci.io.output_folder import Kind, OutputFolder
from loci.memory import SlidingWindow
from loci.models.embodiment import Vector
from loci.recipes.tabletop import tabletop
from loci.worlds.tabletop.embodiment import embodiment
from loci.worlds.tabletop.tasks import make_task

SWAPPED = ["head", "right_wrist", "left_wrist"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Untrained policies that fit the table: one knows its cameras, one acts with seven joints."""
    path = tmp_path_factory.mktemp("policies")
    config = tabletop("put-back-block", SlidingWindow(window=2)).model
    dit = replace(config.world.dit, dim=16, ffn_dim=16, num_heads=2, num_layers=1)
    robot = embodiment(instructions=(make_task("put-back-block").instruction,))
    config = replace(config, world=replace(config.world, dit=dit), steps=1, embodiment=robot)
    torch.manual_seed(0)
    config.build().save(path / "plain.safetensors")
    swapped = replace(config, embodiment=embodiment(SWAPPED))
    swapped.build().save(path / "swapped.safetensors")
    narrow = replace(
        config, expert=replace(config.expert, actions=7),
        embodiment=replace(robot, actions=Vector()),
    )
    narrow.build().save(path / "narrow.safetensors")
    return path


def test_a_policy_sees_through_the_cameras_of_its_training(folder, tmp_path):
    found = closed_loop(folder / "swapped.safetensors", "put-back-block", tmp_path / "a", 1)
    assert found["protocol"]["loop"]["cameras"] == SWAPPED
    found = closed_loop(folder / "plain.safetensors", "put-back-block", tmp_path / "b", 1)
    assert found["protocol"]["loop"]["cameras"] == ["head", "left_wrist", "right_wrist"]


def test_an_act_is_the_models_own_unless_told(folder, tmp_path):
    model, loops = folder / "plain.safetensors", []
    for name, settings in (("a", {}), ("b", {"temperature": 0.0, "steps": 2})):
        found = closed_loop(model, "put-back-block", tmp_path / name, 1, **settings)
        loops.append(found["protocol"]["loop"])
    assert (loops[0]["steps"], loops[0]["temperature"]) == (1, 1.0)
    assert (loops[1]["steps"], loops[1]["temperature"]) == (2, 0.0)
    for settings in ({"temperature": 1.5}, {"steps": 0}):
        with pytest.raises(LociError, match="; use"):
            closed_loop(model, "put-back-block", tmp_path / "none", 1, **settings)
    assert not (tmp_path / "none").exists()


def test_the_command_plays_and_goes_on(folder, tmp_path, capsys):
    asked = ["eval", "closed-loop", str(folder / "plain.safetensors"), "--task", "put-back-block",
             "--out", str(tmp_path), "--films", "1"]
    cli.main([*asked, "--episodes", "1"])
    assert "put-back-block, cue held 1 times, 1 episodes" in capsys.readouterr().out
    first = (tmp_path / "episodes.jsonl").read_text().splitlines()
    cli.main([*asked, "--episodes", "2"])
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert lines[:2] == first
    assert len(lines) == 3
    # Results are not shrunk, however many are filmed.
    with pytest.raises(SystemExit):
        cli.main([*asked, "--episodes", "1", "--films", "0"])
    assert "holds 2 episodes of this run, and 1 are asked for" in capsys.readouterr().err
    assert (tmp_path / "episodes.jsonl").read_text().splitlines() == lines
    cli.main([*asked, "--episodes", "2", "--films", "0"])
    with pytest.raises(SystemExit):
        cli.main([*asked, "--episodes", "2", "--seed", "1"])
    assert "with other settings (first_seed: 0 there, 1000 now)" in capsys.readouterr().err
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["episodes"] == results["success"]["of"] == 2
    assert (tmp_path / "videos" / "000.mp4").exists()


def test_a_log_of_an_earlier_version_goes_on(folder, tmp_path):
    """Its first line also named the commit, the machine, and how many were filmed."""
    closed_loop(folder / "plain.safetensors", "put-back-block", tmp_path, 1)
    log = tmp_path / "episodes.jsonl"
    first, line = log.read_text().splitlines()
    old = json.loads(first) | {"commit": "0" * 12, "device": "another", "dtype": "float32"}
    old["loop"] |= {"film": 3, "together": 10}
    log.write_text(f"{json.dumps(old)}\n{line}\n")
    closed_loop(folder / "plain.safetensors", "put-back-block", tmp_path, 2)
    assert len(log.read_text().splitlines()) == 3
    assert log.read_text().splitlines()[1] == line


def test_two_evaluations_do_not_write_one_folder(folder, tmp_path):
    with OutputFolder.open(tmp_path, Kind.EVALUATION).begin():
        with pytest.raises(LociError, match="another process writes"):
            closed_loop(folder / "plain.safetensors", "put-back-block", tmp_path, 1)
        assert not (tmp_path / "episodes.jsonl").exists()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "results.json").write_text("{}")
    with pytest.raises(LociError, match="holds a study, not a closed-loop evaluation"):
        closed_loop(folder / "plain.safetensors", "put-back-block", tmp_path / "study", 1)


def test_a_policy_at_a_task_it_was_not_trained_for_warns(folder, tmp_path):
    words = "plain was trained for other tasks than cover-blocks .'Move the block"
    with pytest.warns(UserWarning, match=words):
        closed_loop(folder / "plain.safetensors", "cover-blocks", tmp_path / "a", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        closed_loop(folder / "plain.safetensors", "put-back-block", tmp_path / "b", 1)


def test_films_are_counted_from_nothing(folder, tmp_path):
    with pytest.raises(LociError, match="-1 films; give --films 0 or more"):
        closed_loop(folder / "plain.safetensors", "put-back-block", tmp_path / "out", 1, films=-1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "task", "seed", "message"), [
    ("narrow", "put-back-block", 0, "acts with 7 numbers and feels 14; the tabletop has 14"),
    ("plain", "put-back-blok", 0, "did you mean 'put-back-block'"),
    ("plain", "put-back-block", 1000, "out of range"),
    ("missing", "put-back-block", 0, "missing"),
])
def test_what_cannot_be_played_leaves_nothing(folder, tmp_path, name, task, seed, message):
    with pytest.raises(LociError, match=message) as error:
        closed_loop(folder / f"{name}.safetensors", task, tmp_path / "out", 1, seed)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
