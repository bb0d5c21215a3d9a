"""Every benchmark runs, in its smallest form, and saves its figures with their protocol."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import loci

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(loci.__file__).parents[1]
SAVED = sorted((ROOT / "results" / "benchmarks").glob("*.json"))
# What a protocol says at least: of the code, of the machine, and of how figures were made.
FIELDS = (
    "commit", "versions", "device", "cpu", "threads", "dtype", "matmul", "seed", "spread", "rows",
    "command",
)
# The smallest form of every script; but for one they are slow.
SMALLEST = {
    "block_attention": "--repeats 1 --dtypes fp32",
    "camera": "--steps 1 --batch 2 --episodes 4 --held 2",
    "generate_against_diffusers": "--dim 96 --heads 2 --layers 2 --height 32 --width 32 "
    "--frames 3 --span 2 --chunks 2 --steps 2 --repeats 2 --dtypes fp32",
    "generation_error": "--cases 1 --limit 4 --steps 1",
    "load_weights": "--layers 1 --repeats 1",
    "dataset_memory": "--frames 5000 --draws 2",
    "long_episode": "--hold 1",
    "map_resolution": "--cases 1 --voxels 0.1",
    "maps": "--cases 1 --frames 120 --around 5",
    "ragged_streams": "--rows hybrid --policies hybrid --streams 2 --robots 2 --first 1 "
    "--repeats 2",
    "render": "--rooms 1 --repeats 1",
    "retrieval": "--cases 1 --flats 1 --counts 4 --frames 120 --around 5",
    "serving": "--sessions 3 --repeats 1 --periods 1",
    "tabletop": "--episodes 1",
    "training_step": "--rows spmem --against hybrid --lengths 5 --repeats 1 --dtypes fp32",
}
FAST = "block_attention"


def lacks(protocol: Mapping[str, Any]) -> list[str]:
    """What a protocol should say and does not."""
    missing = [name for name in FIELDS if protocol.get(name) in (None, "", {})]
    if not {"repeats", "cases"} & protocol.keys():
        missing.append("repeats or cases")
    rows = protocol.get("rows")
    for name, row in rows.items() if isinstance(rows, dict) else ():
        if not re.fullmatch("[0-9a-f]{12}", row.get("config", "")):
            missing.append(f"the configuration's hash of {name}")
    return missing if isinstance(rows, dict) else [*missing, "rows by name"]


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *options], capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(SOURCE)}, check=False, timeout=300,
    )


def test_every_script_is_tested() -> None:
    scripts = {file.stem for file in (ROOT / "benchmarks").glob("*.py")} - {"protocol"}
    assert scripts == SMALLEST.keys()


@pytest.mark.parametrize(("name", "options"), [
    *(
        pytest.param(name, options, marks=[pytest.mark.slow] * (name != FAST), id=name)
        for name, options in SMALLEST.items()
    ),
    pytest.param(
        "training_step", "--policy --rows hybrid --lengths 3 --repeats 1 --dtypes fp32",
        marks=pytest.mark.slow, id="training_step_policy",
    ),
])
def test_a_benchmark_saves_its_figures_with_their_protocol(
    name: str, options: str, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "found.json"
    done = run(f"{name}.py", *options.split(), "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found == json.loads(done.stdout)
    assert lacks(found["protocol"]) == []
    assert len(found) > 1
    # The command makes these figures again, wherever they went.
    command = found["protocol"]["command"]
    assert command.startswith(f"python benchmarks/{name}.py ")
    for option in re.findall(r"--\S+(?: [^-]\S*)?", options):
        assert f"{option} " in f"{command} "
    assert str(tmp_path) not in out.read_text()


def test_nothing_is_measured_for_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    done = run("block_attention.py", "--out", str(tmp_path))
    assert done.returncode != 0
    assert f"{tmp_path} is a folder; name a file in it" in " ".join(done.stderr.split())


def test_a_protocol_that_lacks_something_is_noticed() -> None:
    whole = dict.fromkeys(FIELDS, "x") | {"rows": {"a": {"config": "0" * 12}}, "repeats": 1}
    assert lacks(whole) == []
    for name in (*FIELDS, "repeats"):
        assert lacks({key: value for key, value in whole.items() if key != name})
    for rows in ({}, "in turns", {"a": {}}, {"a": {"config": "model"}}):
        assert lacks(whole | {"rows": rows})


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.stem)
def test_what_is_published_says_how_it_was_measured(file: Path) -> None:
    protocol = json.loads(file.read_text(encoding="utf-8"))["protocol"]
    missing = lacks(protocol)
    assert not missing, f"{file.name} lacks {', '.join(missing)}; measure it again"
    assert re.fullmatch("[0-9a-f]{12}", protocol["commit"]), "measured by code that is in no commit"
    program, *_ = protocol["command"].removeprefix("python ").split()
    assert program == "loci" or (ROOT / program).is_file(), f"nothing makes {file.name} again"
