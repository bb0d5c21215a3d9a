"""`loci train`: what it leaves when it is refused, who owns a folder, and what there is to look at
in the end."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from loci.commands import main as cli
from loci.data import tabletop as tabletop_data
from loci.data.sources import LeRobotData, RoomsData, TabletopData
from loci.errors import LociError
from loci.io.captions import BAND
from loci.memory import ROWS
from loci.recipes import registry
from loci.recipes.rooms import rooms
from loci.recipes.tabletop import tabletop
from loci.training.codec import CodecRun
from loci.training.folder import RunFolder
from loci.training.policy import PolicyRun
from loci.training.train_config import TrainConfig
from loci.training.world import WorldRun

TINY = Path(__file__).parents[1] / "tiny_run.py"


def ending(*arguments: object) -> int:
    """The exit code of `loci train` with these arguments."""
    try:
        cli.main(["train", *map(str, arguments)])
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    return 0


def shrunk(run: Any) -> Any:
    """A recipe with a transformer that a test can wait for."""
    model = run.world if isinstance(run, WorldRun) else run.model.world
    dit = replace(model.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8)
    world = replace(model, dit=dit, steps=1)
    train = replace(run.train, steps=3, warmup=1, dtype="fp32")
    if isinstance(run, WorldRun):
        return replace(run, world=world, data=RoomsData(episodes=2, length=9), batch=2, train=train)
    expert = replace(run.model.expert, dim=12, ffn_dim=16, text_dim=8)
    data = TabletopData(task=run.data.task, episodes=2)
    return replace(
        run, model=replace(run.model, world=world, expert=expert, steps=1), data=data, batch=2,
        train=train,
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabletop_data, "SHARD", 2)
    monkeypatch.setattr(registry, "rooms", lambda memory: shrunk(rooms(memory)))
    monkeypatch.setattr(registry, "tabletop", lambda task, memory: shrunk(tabletop(task, memory)))


@pytest.mark.parametrize(("options", "words"), [
    (["--threads", "0"], "0 threads cannot work"),
    (["--threads", "-3"], "-3 threads cannot work"),
    (["--steps", "0"], "TrainConfig.steps cannot be 0; use 1 or more"),
    pytest.param(["--device", "cuda"], "no CUDA device is usable here", marks=pytest.mark.skipif(
        torch.cuda.is_available(), reason="there is one")),
    (["--small"], "TinyRun has no small form; leave --small out"),
])
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    """So that the corrected command begins, and is not told to --resume."""
    out = tmp_path / "deep" / "run"
    assert ending(f"{TINY}:tiny", "--out", out, *options) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert ending(f"{TINY}:tiny", "--out", out, "--threads", 1, "--steps", 2) == 0


def test_neither_does_what_cannot_be_rendered_or_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path / "cache"))
    for recipe in ("rooms-none", "put-back-block-window"):
        assert ending(recipe, "--out", tmp_path / "run", "--threads", 1) == 2
        assert re.search(r"cannot write .*cache is a file; choose", capsys.readouterr().err)
    broken = tmp_path / "rows.py"
    broken.write_text("def tiny(:\n")
    monkeypatch.setenv("LOCI_ROWS", str(broken))
    assert ending("rooms-none", "--out", tmp_path / "run") == 2
    assert "rows.py, line 1, does not load" in capsys.readouterr().err
    data = LeRobotData(folder=str(tmp_path / "nowhere"), cameras=("head",))
    monkeypatch.delenv("LOCI_ROWS")
    run = replace(shrunk(tabletop("put-back-block", ROWS["window"])), data=data)
    monkeypatch.setattr(registry, "tabletop", lambda task, memory: run)
    assert ending("put-back-block-window", "--out", tmp_path / "run") == 2
    assert "nowhere" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "rows.py"]


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    def render(*_: Any) -> None:
        raise AssertionError("rendered")

    monkeypatch.setattr(RoomsData, "load", render)
    (tmp_path / "file").write_text("")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "photo.png").write_text("")
    for out, words in (("file", "is a file"), ("others", "holds other files (photo.png)")):
        assert ending("rooms-none", "--out", tmp_path / out) == 2
        assert words in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "others").iterdir()] == ["photo.png"]


def test_one_process_owns_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second one, resuming or not, is refused and touches nothing."""
    out, config = tmp_path / "run", registry.build_recipe(f"{TINY}:tiny")
    with RunFolder.open(out, config).claim():
        before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
        for options in ([], ["--resume"]):
            assert ending(f"{TINY}:tiny", "--out", out, "--threads", 1, *options) == 2
            assert f"another process writes {out}" in capsys.readouterr().err
        assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    assert ending(f"{TINY}:tiny", "--out", out, "--threads", 1, "--resume") == 0


def test_rooms_end_with_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    out = tmp_path / "run"
    assert ending("rooms-hybrid", "--out", out, "--threads", 1, "--small") == 0
    told = capsys.readouterr()
    assert "rendering 2 training episodes first: about" in told.err
    assert "are kept in" in told.err
    with Image.open(out / "sample.png") as sheet:
        # Two rows of nine, each picture with its number below it.
        assert sheet.size == (9 * (2 * 64 + 2) + 2, 2 * (2 * 64 + BAND + 2) + 2)
    lines = told.out.splitlines()
    assert lines[1].startswith(f"{out / 'sample.png'}: a room it has never seen, left45-return")
    assert lines[2].startswith(f"next: loci train rooms-hybrid --out {out}-whole")
    assert f"loci probe {out / 'model.safetensors'}" in told.out


def test_policies_end_with_a_film(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    out = tmp_path / "run"
    assert ending("put-back-block-window", "--out", out, "--threads", 1) == 0
    told = capsys.readouterr().out
    assert f"{out / 'sample.mp4'}: the policy at an episode of put-back-block" in told
    assert (out / "sample.mp4").stat().st_size > 1000
    assert "next:" not in told


def test_a_picture_that_cannot_be_made_spoils_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    def fail(*_: Any) -> None:
        raise LociError("no room for it")

    monkeypatch.setattr("loci.commands.sample.write_sample", fail)
    assert ending("rooms-none", "--out", tmp_path / "run", "--threads", 1) == 0
    assert "warning: no picture of the result: no room for it" in capsys.readouterr().err


def test_small_is_less_of_the_same() -> None:
    world, policy = rooms(ROWS["hybrid"]), tabletop("press-button", ROWS["hybrid"])
    small: Any = registry.build_recipe("rooms-hybrid", small=True)
    assert small.world == world.world
    assert (small.train.steps, small.data.episodes, small.data.length) == (400, 192, 33)
    assert isinstance(policy, PolicyRun)
    less = policy.small()
    assert less.model == policy.model
    assert less.augmentation.clean_noise == policy.augmentation.clean_noise
    assert (less.augmentation.lead_frames, less.augmentation.linger_frames) == (0, 0)
    assert registry.build_recipe("rooms-hybrid", small=True, steps=7).train.steps == 7
    with pytest.raises(LociError, match="CodecRun has no small form"):
        CodecRun(train=TrainConfig(steps=1)).small()


def test_what_is_extended_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    base = [f"{TINY}:tiny", "--out", out, "--threads", 1]
    assert ending(*base) == 0
    assert ending(*base, "--resume", "--steps", 30) == 0
    told = capsys.readouterr()
    assert f"{out} was finished after 25 steps and goes on to 30" in told.err
    assert f"{out}: 30 steps" in told.out
    assert os.environ.get("LOCI_CACHE")  # of the tests' own
