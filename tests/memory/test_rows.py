"""Rows of the user's own: one file, and every command and test knows them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

import loci
import made_up_rooms
from loci.commands import main as cli
from loci.data.sources import RoomsData
from loci.errors import LociError
from loci.io.checkpoint import load_checkpoint
from loci.io.user_code import source_files
from loci.memory import ROWS, Hybrid, Memory, registry, row
from loci.memory.registry import VARIABLE
from loci.models.world import WorldModel
from loci.recipes import registry as recipes
from loci.study import studies
from loci.study.entry import given
from loci.study.rooms.suite import Rooms
from loci.study.run import run as play
from loci.study.store import Store
from loci.training.world import WorldRun
from tiny_world import tiny_world

SOURCE = Path(loci.__file__).parents[1]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "add_a_memory.py"
MINE = """
from dataclasses import dataclass
from loci.memory import ROWS, Memory

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
    assert "48 tokens held after 9 frames" in done.stdout


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes and studies of a second."""
    real = recipes.rooms

    def rooms(memory: Memory) -> WorldRun:
        run = real(memory)
        dit = replace(run.world.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8)
        return replace(
            run, world=replace(run.world, dit=dit, steps=1), batch=2,
            data=RoomsData(episodes=2, length=9), train=replace(run.train, steps=2, warmup=1),
        )

    monkeypatch.setattr(recipes, "rooms", rooms)
    monkeypatch.setattr(RoomsData, "load", made_up_rooms.load)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def test_the_examples_row_is_trained_and_studied_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small: None
) -> None:
    out = tmp_path / "run"
    files = [{"file": EXAMPLE.name, "sha256": digest(EXAMPLE)}]
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "rooms-stridd", "--out", str(out)])
    assert left.value.code == 2
    assert "did you mean 'rooms-strided'" in capsys.readouterr().err
    cli.main(["train", "rooms-strided", "--steps", "1", "--threads", "1", "--out", str(out)])
    assert WorldModel.load(out / "model.safetensors").config.memory == ROWS["strided"]
    assert json.loads((out / "train.jsonl").read_text().splitlines()[0])["files"] == files
    notes = load_checkpoint(out / "model.safetensors", "world-model").metadata["training"]
    assert notes["protocol"]["files"] == files

    families = replace(studies.STUDIES["families"], suite=partial(Rooms, branches=("replay",)))
    monkeypatch.setitem(studies.STUDIES, "families", families)
    studied = tmp_path / "studied"
    cli.main(["study", "families", "--rows", "strided", "--cases", "1", "--out", str(studied)])
    assert "strided" in capsys.readouterr().out
    assert "strided" in (studied / "report.html").read_text()
    rows = json.loads((studied / "results.json").read_text())["protocol"]["rows"]
    assert rows["strided"]["files"] == files

    told = tmp_path / "probe.json"
    checkpoint = str(out / "model.safetensors")
    cli.main(["probe", checkpoint, "--cases", "1", "--out", str(told)])
    assert "latents" in capsys.readouterr().out
    found = json.loads(told.read_text())
    assert found["protocol"]["memory"] == ROWS["strided"].to_dict()
    assert found["protocol"]["files"] == files
    assert set(found["rows"]) == {"blind", "latents", "model"}
    assert 0 <= found["rows"]["model"]["there"]["mean"] <= 1


def test_a_file_is_run_once_and_may_import_everything(named: Path) -> None:
    named.write_text("print('run')\n" + MINE)
    script = (
        "from loci.models.world_action import WorldActionModel\n"
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
        ("\ndef mine(:", "mine.py, line 2, does not load: SyntaxError"),
        ("\n\n1 / 0", "line 3, does not load: ZeroDivisionError: division by zero; fix it"),
        ("def f():\n    1 / 0\nf()", "mine.py, line 2, does not load: ZeroDivisionError"),
        ("raise SystemExit(3)", "line 1, does not load: SystemExit: 3; fix it"),
        ("import absent", "line 1, does not load: ModuleNotFoundError: No module named 'absent'"),
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


@pytest.mark.parametrize(
    ("raising", "words"),
    [
        ("1 / 0", r"mine\.py, line 9, in rule: ZeroDivisionError: division by zero; fix it"),
        ("row(None)", r"mine\.py, line 9, in rule: TypeError: .*; fix it"),  # within Loci
        ("row('hybird')", r"mine\.py, line 9, in rule: unknown memory row 'hybird'; did you mean"),
    ],
)
def test_a_rule_that_raises_is_its_owners_error_and_no_bug_of_loci(
    named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small: None, raising: str,
    words: str,
) -> None:
    text = MINE.replace("import ROWS, Memory", "import ROWS, Memory, row")
    named.write_text(text.replace('ROWS["none"].rule()', raising))
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "rooms-mine", "--out", str(tmp_path / "run")])
    assert left.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(words, error), error
    assert "report it" not in error


def test_a_recipe_that_raises_is_its_owners_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "helper.py").write_text("def size():\n    return {}['size']\n")
    file = tmp_path / "recipes.py"
    file.write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport helper\n\n\n"
        "def mine():\n    return helper.size()\n"
    )
    with pytest.raises(SystemExit) as left:
        cli.main(["train", f"{file}:mine", "--out", str(tmp_path / "run")])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "helper.py, line 2, in size: KeyError: 'size'; fix it" in error
    assert not (tmp_path / "run").exists()
    sys.path.remove(str(tmp_path))


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


def rewritten(file: Path, text: str) -> None:
    """Another text in the file, and the registry as a new process has it before the file is run."""
    file.write_text(text)
    for module in [name for name in sys.modules if name.startswith(f"loci_file_{file.stem}_")]:
        del sys.modules[module]
    registry._loaded.discard(str(file))
    Memory.choices.pop("mine")
    ROWS._rows.pop("mine")


def test_protocols_name_the_files_behind_a_configuration(named: Path) -> None:
    named.write_text(MINE)
    files = {"files": [{"file": "mine.py", "sha256": digest(named)}]}
    model = tiny_world(row("mine"))
    assert source_files(row("mine")) == source_files(model.config) == files
    # It is the text that was run, whatever stands there by now.
    named.write_text(MINE + "# later\n")
    assert source_files(row("mine")) == files
    rewritten(named, MINE + "# later\n")
    assert source_files(row("mine")) == {"files": [{"file": "mine.py", "sha256": digest(named)}]}
    # The settings of what ships say all, also under a name of the user's.
    rewritten(named, 'from loci.memory import ROWS, Hybrid\nROWS["mine"] = Hybrid(window=3)\n')
    assert source_files(row("mine")) == source_files(tiny_world(row("hybrid")).config) == {}
    Memory.choices["mine"] = Hybrid  # for the fixture

    @dataclass(frozen=True, kw_only=True)
    class Ours(type(row("strided"))):
        pass

    assert source_files(Ours()) == {"files": [
        {"file": file.name, "sha256": digest(file)} for file in (EXAMPLE, Path(__file__))
    ]}


def test_a_study_notices_that_a_rows_file_changed(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    families = replace(studies.STUDIES["families"], suite=partial(Rooms, branches=("replay",)))
    monkeypatch.setitem(studies.STUDIES, "families", families)
    out = tmp_path / "study"
    weights = out / "training" / "mine" / "model.safetensors"
    part = out / "parts" / "replay.mine.json.gz"
    ask = ["study", "families", "--rows", "mine", "--cases", "1", "--out", str(out)]
    named.write_text(MINE)
    cli.main(ask)
    before, scores = digest(named), part.read_bytes()
    # Settings and weights are those of before; what they do may be something else.
    rewritten(named, MINE.replace('ROWS["none"].rule()', 'ROWS["context-1"].rule()'))
    now = digest(named)
    capsys.readouterr()
    resume = ["train", "rooms-mine", "--out", str(weights.parent), "--resume"]
    for command in (ask, resume):
        with pytest.raises(SystemExit) as left:
            cli.main(command)
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(rf"with mine.py \({before}\), now it is mine.py \({now}\); bring", error)
    assert part.read_bytes() == scores
    # Whatever evaluates these weights now makes its scores anew, beside those that there are, ...
    rows = [given("mine", weights, "world-model")]
    play(Rooms("families", 1, 0, rows, ("replay",)), Store(out))
    assert part.read_bytes() == scores
    assert len(list(part.parent.glob("replay.mine*"))) == 2
    # ... and where the weights are gone, the row is trained anew.
    for file in weights.parent.glob("*.safetensors"):
        file.unlink()
    cli.main(ask)
    protocol = json.loads((out / "results.json").read_text())["protocol"]
    assert protocol["rows"]["mine"]["files"] == [{"file": "mine.py", "sha256": now}]
    assert WorldModel.load(weights).config.memory == row("mine")
