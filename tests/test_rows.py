"""Rows of the user's own: one file, and every command and test knows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import loci
from loci import cli
from loci.errors import LociError
from loci.evaluation import study as studies
from loci.memory import ROWS, Memory, row
from loci.memory.registry import VARIABLE
from loci.models.world import WorldModel
from loci.training import recipes, world
from test_world_task import fake_episodes
from tiny_world import tiny_world

SOURCE = Path(loci.__file__).parents[1]
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "add_a_memory.py"
MINE = """
from dataclasses import dataclass
from loci.memory import ROWS, Memory
from loci.packed import packed_pass

@dataclass(frozen=True, kw_only=True)
class Mine(Memory, name="mine"):
    size: int = 1
    def rule(self):
        return ROWS["none"].rule()

ROWS["mine"] = Mine()
"""


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that LOCI_ROWS names; afterwards the registry is as it was."""
    file, rows, choices = tmp_path / "mine.py", dict(ROWS), dict(Memory.choices)
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(EXAMPLE), str(file)]))
    yield file
    monkeypatch.undo()
    for name in ROWS.keys() - rows.keys():
        del ROWS[name]
    Memory.choices.clear()
    Memory.choices.update(choices)


def test_the_example_runs_and_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 80
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    gap = done.stdout.split("packed - streamed: ")[1].split()[0]
    assert float(gap) < 1e-5
    assert "144 tokens held after 9 frames" in done.stdout


def test_the_examples_row_is_trained_and_studied_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = recipes.rooms

    def small(memory: Memory) -> world.WorldRun:
        run = real(memory)
        dit = replace(run.world.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8)
        return replace(
            run, world=replace(run.world, dit=dit, steps=1), episodes=2, length=9, batch=2,
            train=replace(run.train, steps=2, warmup=1),
        )

    monkeypatch.setattr(recipes, "rooms", small)
    monkeypatch.setattr(world, "latent_episodes", fake_episodes)
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "rooms-stridd", "--out", str(out)])
    assert left.value.code == 2
    assert "did you mean 'rooms-strided'" in capsys.readouterr().err
    cli.main(["train", "rooms-strided", "--steps", "1", "--threads", "1", "--out", str(out)])
    assert WorldModel.load(out / "model.safetensors").config.memory == ROWS["strided"]

    monkeypatch.setattr(
        studies, "evaluate", partial(studies.evaluate, branches=("replay", "recall"))
    )
    cli.main(["study", "families", "--rows", "strided", "--cases", "1", "--out", str(out)])
    assert "strided" in capsys.readouterr().out
    assert "strided" in (out / "report.html").read_text()

    told = tmp_path / "probe.json"
    checkpoint = str(out / "model.safetensors")
    cli.main(["probe", checkpoint, "--cases", "1", "--out", str(told)])
    assert "latents" in capsys.readouterr().out
    found = json.loads(told.read_text())
    assert found["protocol"]["memory"] == ROWS["strided"].to_dict()
    assert set(found["rows"]) == {"blind", "latents", "model"}
    assert 0 <= found["rows"]["model"]["there"]["mean"] <= 1


def test_a_file_is_run_once_and_may_import_everything(named: Path) -> None:
    named.write_text("print('run')\n" + MINE)
    script = (
        "from loci.packed import packed_pass\n"
        "from loci.memory import ROWS, Memory, row\n"
        "memory = Memory.from_dict({'type': 'mine', 'size': 2})\n"
        "assert type(memory) is type(row('mine')) and {'mine', 'strided'} <= set(ROWS)\n"
    )
    # From the working directory on, and named twice over.
    files = os.pathsep.join(["", named.name, str(named), str(EXAMPLE)])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=named.parent,
        env=os.environ | {"PYTHONPATH": str(SOURCE), VARIABLE: files},
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no memory file"),
        ("def mine(:", "mine.py does not load: SyntaxError"),
        ("1 / 0", "mine.py does not load: ZeroDivisionError: division by zero; fix it"),
        ("raise SystemExit(3)", "does not load: SystemExit: 3; fix it"),
        (MINE.replace('ROWS["mine"]', 'ROWS["hybrid"]'), "a memory row 'hybrid' with other"),
        (MINE.replace('"mine"', '"hybrid"'), "two configurations are called 'hybrid'"),
        (MINE.replace("= Mine()", "= Mine"), "memory row 'mine' is <class"),
        (MINE.replace(', name="mine"', ""), "Mine has no name in its family"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
) -> None:
    if text is not None:
        named.write_text(text)
    # Every time that it is asked for, not only the first time.
    for ask in (lambda: row("none"), lambda: Memory.from_dict({"type": "none"})):
        with pytest.raises(LociError, match=words) as caught:
            ask()
        assert str(caught.value).startswith(f"{VARIABLE}: ")
        assert str(named) in str(caught.value)
    with pytest.raises(SystemExit):
        cli.main(["train", "rooms-none", "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_checkpoint_of_an_unknown_memory_says_where_it_may_come_from(
    named: Path, tmp_path: Path
) -> None:
    named.write_text(MINE)
    tiny_world(row("mine")).save(tmp_path / "model.safetensors")
    assert WorldModel.load(tmp_path / "model.safetensors").config.memory == row("mine")
    del Memory.choices["mine"]  # as in a process that was not told of the file
    with pytest.raises(LociError, match=r"unknown Memory 'mine'.*name that file in LOCI_ROWS"):
        WorldModel.load(tmp_path / "model.safetensors")


def test_a_name_stands_for_one_configuration(named: Path) -> None:
    named.write_text(MINE)
    mine = row("mine")
    ROWS["mine"] = type(mine)()
    with pytest.raises(LociError, match="row 'mine' with other settings; rename one"):
        ROWS["mine"] = replace(mine, size=2)  # pyrefly: ignore
    del ROWS["mine"]
    ROWS["mine"] = replace(mine, size=2)  # pyrefly: ignore
