"""Output folders: one writer at a time, one identity, and nothing is created before it is begun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import loci
from loci.errors import LociError
from loci.io.output_folder import IDENTITY, Kind, OutputFolder, difference

SETTINGS = {"seed": 0, "train": {"steps": 5, "betas": (0.9, 0.95)}}


def test_a_check_creates_nothing_and_begin_leaves_the_identity(tmp_path: Path) -> None:
    folder = OutputFolder.open(tmp_path / "new/run", Kind.TRAINING, SETTINGS)
    assert not folder.begun
    assert list(tmp_path.iterdir()) == []
    with folder.begin():
        assert folder.begun
    identity = json.loads((tmp_path / "new/run" / IDENTITY).read_text())
    assert identity["kind"] == "training run"
    assert identity["settings"] == {"seed": 0, "train": {"steps": 5, "betas": [0.9, 0.95]}}
    again = OutputFolder.open(tmp_path / "new/run", Kind.TRAINING, SETTINGS)
    assert again.begun
    again.begin().close()


def test_a_folder_with_an_identity_alone_is_known(tmp_path: Path) -> None:
    """A process that is killed right after it began has written nothing else."""
    OutputFolder.open(tmp_path / "run", Kind.TRAINING, SETTINGS).begin().close()
    with pytest.raises(LociError, match="holds a training run, not a study; choose another folder"):
        OutputFolder.open(tmp_path / "run", Kind.STUDY)
    other = {**SETTINGS, "train": {"steps": 6, "betas": [0.9, 0.95]}}
    words = r"training run with other settings \(train.steps: 5 there, 6 now\); repeat its options"
    with pytest.raises(LociError, match=words):
        OutputFolder.open(tmp_path / "run", Kind.TRAINING, other)
    assert OutputFolder.open(tmp_path / "run", Kind.TRAINING).begun  # any settings


@pytest.mark.parametrize(
    ("marker", "kind"),
    [
        ("meta/info.json", Kind.DATASET), ("config.json", Kind.TRAINING),
        ("episodes.jsonl", Kind.EVALUATION), ("results.json", Kind.STUDY),
        ("parts/ground.none.json.gz", Kind.STUDY),
    ],
)
def test_folders_from_before_identities_are_taken_up(
    marker: str, kind: Kind, tmp_path: Path
) -> None:
    (tmp_path / marker).parent.mkdir(exist_ok=True)
    (tmp_path / marker).write_text("{}")
    for other in set(Kind) - {kind}:
        with pytest.raises(LociError, match=f"holds a {kind}, not a {other}"):
            OutputFolder.open(tmp_path, other)
    with pytest.raises(LociError, match=r"other settings \(seed: 1 there, 0 now\)"):
        OutputFolder.open(tmp_path, kind, {"seed": 0}, earlier=lambda _: {"seed": 1})
    folder = OutputFolder.open(tmp_path, kind, {"seed": 0}, earlier=lambda path: {"seed": 0})
    assert folder.begun
    assert not (tmp_path / IDENTITY).exists()
    folder.begin().close()
    with pytest.raises(LociError, match="other settings"):
        OutputFolder.open(tmp_path, kind, {"seed": 2})


def test_foreign_folders_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".gitkeep").touch()
    OutputFolder.open(tmp_path, Kind.STUDY)  # hidden files are nobody's output
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LociError, match=r"holds other files \(notes.txt\); give an empty folder"):
        OutputFolder.open(tmp_path, Kind.STUDY)
    for below in ("notes.txt", "notes.txt/below"):
        with pytest.raises(LociError, match=r"notes.txt is a file; choose another folder"):
            OutputFolder.open(tmp_path / below, Kind.STUDY)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.loci").mkdir()
    (tmp_path / "run" / IDENTITY).write_text("{")
    with pytest.raises(LociError, match=r"identity.json cannot be read .*; choose another folder"):
        OutputFolder.open(tmp_path / "run", Kind.STUDY)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".gitkeep", "notes.txt", "run"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_place_without_permission_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(LociError, match=r"no permission in .*; choose another folder"):
            OutputFolder.open(tmp_path / "run", Kind.STUDY)
    finally:
        tmp_path.chmod(0o700)


HOLDER = """
import sys, time
from loci.io.output_folder import Kind, OutputFolder
folder = OutputFolder.open(sys.argv[1], Kind.STUDY, {"seed": 0}).begin()
print("begun", flush=True)
time.sleep(60)
"""


def test_another_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    before = OutputFolder.open(tmp_path / "out", Kind.STUDY, {"seed": 0})
    source = str(Path(loci.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")], stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": source},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        words = "another process writes .*out; wait for it to end"
        with pytest.raises(LociError, match=words):
            OutputFolder.open(tmp_path / "out", Kind.STUDY, {"seed": 0})
        with pytest.raises(LociError, match=words):
            before.begin()  # it was checked when there was no such folder
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with before.begin():
        assert before.begun


def test_what_was_begun_in_the_meantime_is_found(tmp_path: Path) -> None:
    late = OutputFolder.open(tmp_path / "out", Kind.STUDY, {"seed": 0})
    OutputFolder.open(tmp_path / "out", Kind.TRAINING, {}).begin().close()
    with pytest.raises(LociError, match="holds a training run, not a study"):
        late.begin()
    OutputFolder.open(tmp_path / "out", Kind.TRAINING, {}).begin().close()  # the lock is free


def test_the_first_difference_is_named() -> None:
    assert difference({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}) == "b.c: 2 there, 3 now"
    assert difference({}, {"a": 1}) == "a: None there, 1 now"
    assert difference([1], [2]) == "all: [1] there, [2] now"
