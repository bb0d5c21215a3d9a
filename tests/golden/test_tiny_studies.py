"""Studies of worlds on two rooms, with checkpoints that ship, by the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from golden import entry_points as loci
from golden.pins import masked, pins, printed_lines, table_rows
from loci.io.output_folder import HIDDEN

ROWS = {"ground": "none,hybrid", "families": "none,hybrid,delta"}
# What depends on the machine, on the history of the code and on how a file is written.
VOLATILE = (
    "protocol/commit", "protocol/device", "protocol/threads", "protocol/versions",
    "protocol/matmul", "protocol/wall", "protocol/rows/*/checkpoint_sha256",
)
# Where `families` says of a row what `ground` says.
SHARED = ("rows", "gains", "retention", "cost")


def read(out: Path) -> dict[str, Any]:
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    # Since the pins were made, results say with what each row was played.
    assert results["protocol"].pop("played_with").keys() == results["protocol"]["rows"].keys()
    return masked(results, VOLATILE)


def run(name: str, out: Path) -> tuple[dict[str, Any], list[str]]:
    """(results, what is printed) of a study."""
    printed = loci.command("study", name, "--rows", ROWS[name], "--cases", 2, "--out", out)
    return read(out), printed_lines(printed)


def test_a_tiny_study_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loci.REPORT, lambda *_: None)
    ground, printed = run("ground", tmp_path)
    with pins("tiny_studies") as check:
        for section, figures in ground.items():
            check(f"ground, {section}", figures)
        check("ground, order of rows", list(ground["rows"]))
        check("ground, printed", printed, texts=True)


@pytest.mark.slow
def test_a_study_that_goes_on_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`families` goes on in a copy of what `ground` has made, as a study in pieces does: what both
    have is not rendered and not generated twice."""
    with monkeypatch.context() as patch:
        patch.setattr(loci.REPORT, lambda *_: None)
        ground, _ = run("ground", tmp_path / "ground")
    shutil.copytree(tmp_path / "ground", tmp_path / "families")
    # Finished parts stay; the results of another study would not be replaced unasked.
    (tmp_path / "families" / "results.json").unlink()
    shutil.rmtree(tmp_path / "families" / HIDDEN)
    families, printed = run("families", tmp_path / "families")
    page = (tmp_path / "families" / "report.html").read_text(encoding="utf-8")
    with pins("tiny_studies") as check:
        for section, figures in families.items():
            if section in SHARED:
                again = {row: figures[row] for row in ground[section]}
                check(f"ground, {section}", again)
                figures = {row: figures[row] for row in figures if row not in again}
            check(f"families, {section}", figures)
        check("families, order of rows", list(families["rows"]))
        check("families, printed", printed, texts=True)
        check("families, report", table_rows(page), texts=True)
