"""The engine: results are not replaced unasked, and what will be made is said before."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loci.commands.study import announced
from loci.errors import LociError
from loci.study import run as engine
from loci.study.run import RESULTS, guard, make
from loci.study.studies import StudyOptions, plan_study

SCOPE: dict[str, Any] = {
    "name": "wam", "seed": 0, "cases": 10, "asked": ["a", "b"], "tasks": ["one", "two"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished study."""
    protocol = {
        "study": "wam", "seed": 0, "case_count": 10, "rows": {"a": {}, "b": {}},
        "tasks": {"one": {}, "two": {}},
    }
    (tmp_path / RESULTS).write_text(json.dumps({"protocol": protocol}))
    return tmp_path


@pytest.mark.parametrize(("change", "words"), [
    ({"seed": 1}, "holds results of seed 0; choose another folder, or give --replace"),
    ({"cases": 9}, "would lose 1 of its cases: ask for them too"),
    ({"asked": ["b"]}, "would lose row a: "),
    ({"asked": ["b"], "tasks": ["two"], "cases": 1}, "lose row a, task one, 9 of its cases"),
    ({}, None), ({"cases": 11, "asked": ["c", "b", "a"], "tasks": ["two", "one", "three"]}, None),
])
def test_results_are_not_replaced_by_others_or_by_fewer(
    folder: Path, change: dict[str, Any], words: str | None
) -> None:
    suite: Any = SimpleNamespace(**SCOPE | change)
    if words is None:
        guard(suite, folder)
        return
    with pytest.raises(LociError, match=words) as caught:
        guard(suite, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_is_of_one_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """Whether it was finished, by this version or an earlier one, or only begun."""
    if finished:
        protocol = {"study": "ground", "seed": 0, "case_count": 1, "rows": {"none": {}}}
        (tmp_path / RESULTS).write_text(json.dumps({"protocol": protocol}))
    else:
        monkeypatch.setattr(engine, "run", lambda *_: {"protocol": {}})
        make(plan_study("ground", tmp_path, StudyOptions(rows=["none"], cases=1)))
        (tmp_path / RESULTS).unlink()
    plan_study("ground", tmp_path, StudyOptions(rows=["none"], cases=1))
    with pytest.raises(LociError, match="study: 'ground' there, 'families' now"):
        plan_study("families", tmp_path, StudyOptions(rows=["none"], replace=True))


def test_two_processes_do_not_make_one_study(tmp_path: Path) -> None:
    options = StudyOptions(rows=["none"], cases=1)
    plan = plan_study("ground", tmp_path, options)
    with plan.folder.begin(), pytest.raises(LociError, match="another process writes"):
        plan_study("ground", tmp_path, options)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "episodes.jsonl").write_text("{}")
    with pytest.raises(LociError, match="holds a closed-loop evaluation, not a study"):
        plan_study("ground", tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_without_results_holds_none(tmp_path: Path) -> None:
    suite: Any = SimpleNamespace(**SCOPE)
    guard(suite, tmp_path)
    (tmp_path / RESULTS).write_text("{")
    with pytest.raises(LociError, match="damaged"):
        guard(suite, tmp_path)


def test_a_study_says_beforehand_what_it_will_make(tmp_path: Path) -> None:
    plan = plan_study("ground", tmp_path, StudyOptions(rows=["none", "hybrid"], cases=4))
    assert announced(plan) == "loci: ground: 2 shipped; about 32 s on two cores"
    plan = plan_study("families", tmp_path, StudyOptions(rows=["none", "full"], cases=400))
    assert announced(plan) == (
        "loci: families: 1 shipped, 1 to be trained (full); about 75 min on two cores"
    )
    # Of the policies one ships at each task.
    plan = plan_study("wam", tmp_path, StudyOptions(rows=["hybrid"], tasks=["cover-blocks"]))
    assert announced(plan).startswith("loci: wam: 1 shipped; about ")
    plan = plan_study("wam", tmp_path, StudyOptions(rows=["hybrid"], from_scratch=True))
    assert "3 to be trained (put-back-block-hybrid, " in announced(plan)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_that_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_study("ground", tmp_path, StudyOptions(rows=["none"], cases=1))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "run", stopped)
    with pytest.raises(KeyboardInterrupt) as caught:
        make(plan)
    assert str(caught.value) == (
        f"interrupted; what is finished is kept in {tmp_path}, the same command goes on"
    )
    assert "--resume" not in str(caught.value)
