"""The study of policies: trained, played, kept, made again where it must be, and judged fairly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import demonstrations as made
from finished_policies import finish
from loci.commands.show import console_table
from loci.commands.study import table
from loci.data.sources import LeRobotData
from loci.errors import LociError
from loci.geometry import Camera
from loci.models.action import ActionConfig
from loci.models.embodiment import Embodiment, RobotCamera
from loci.recipes import registry as known
from loci.recipes.tabletop import POLICY_ROWS, tabletop
from loci.report.tabletop import main
from loci.study import entry as entries
from loci.study.estimates import paired_shares
from loci.study.run import make
from loci.study.studies import StudyOptions, plan_study
from loci.study.tabletop import episodes
from loci.study.tabletop import suite as suites
from loci.worlds.tabletop import baselines as floors
from loci.worlds.tabletop.baselines import BASELINES, Outcome
from loci.worlds.tabletop.tasks import PutBackBlock
from loci.worlds.tabletop.tasks.base import Task

TASK, ROWS, CASES = "put-back-block", ("window", "hybrid"), 3


class Cut(Exception):
    pass


class Stub:
    """A table whose episodes last two chunks for each hold and end as the actions say."""

    left = 10**6

    def __init__(self, task: Task):
        self.task = task

    def reset(self, *, seed=None):
        self.seed, self.steps, self.total = seed, 0, 0.0
        return self.observe(), {}

    def observe(self):
        draw = np.random.default_rng([self.seed, self.steps])
        image = draw.integers(0, 256, (32, 48, 3)).astype(np.uint8)
        return {"pixels": {"head": image}, "agent_pos": np.full(14, np.tanh(self.total))}

    def advance(self, action):
        Stub.left -= 1
        if Stub.left < 0:
            raise Cut
        self.steps += 1
        self.total += float(action.sum())
        over = self.steps >= 8 * 2 * self.task.hold
        won = over and int(1000 * abs(self.total)) % 2 == 0
        stages = dict.fromkeys(self.task.stages, bool(over)) | {"right": won}
        failure = "" if won or not over else "wrong mat"
        return 0.0, over, False, {"is_success": won, "stages": stages, "failure": failure}


class Nobody:
    def __init__(self, task: Task):
        raise AssertionError("an episode that was finished is played again")


def guesses(task: Task, episodes: int, training: int, first: int = 0) -> dict[str, int]:
    return dict.fromkeys(BASELINES, episodes // 4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demonstrations")
    made.write(path, [20, 17])
    return path


@pytest.fixture(scope="module", autouse=True)
def small(dataset: Path) -> Iterator[dict[str, Any]]:
    """Recipes that take a second; what is returned changes their settings."""
    changes: dict[str, Any] = {}

    def recipe(task: str, memory: Any):
        run = tabletop(task, memory)
        dit = replace(
            run.model.world.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8,
            patch=(1, 2, 2),
        )
        world = replace(run.model.world, dit=dit, camera=Camera(height=32, width=48))
        model = replace(
            run.model, world=world, steps=2,
            # The data's robot has pictures of another shape than the table's, and another rate.
            embodiment=Embodiment(cameras=(RobotCamera(name="head"),)),
            expert=ActionConfig(dim=12, ffn_dim=16, text_dim=8, horizon=8),
        )
        data = LeRobotData(folder=str(dataset), cameras=("head",))
        train = replace(run.train, steps=2, warmup=1, log_every=1)
        return replace(run, model=model, data=data, train=train, **{"batch": 2, **changes})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "tabletop", recipe)
        patch.setattr(episodes, "Tabletop", Stub)
        patch.setattr(suites, "baselines", guesses)
        yield changes


def wam(out: Path, rows: Any = None, tasks: Any = None, **options: Any) -> dict[str, Any]:
    """A study of policies."""
    return make(plan_study("wam", out, StudyOptions(rows=rows, tasks=tasks, **options)))


def study(out: Path, cases: int = CASES, **options: Any) -> dict[str, Any]:
    return wam(out, ROWS, [TASK], cases=cases, **options)


def timeless(results: dict[str, Any]) -> dict[str, Any]:
    """The results without what depends on the machine's mood. The file of the weights notes the
    minutes of its training, and so does its digest."""
    plain = json.loads(json.dumps(results))
    del plain["protocol"]["wall"]
    for rows in plain["protocol"]["entries"].values():
        for entry in rows.values():
            del entry["checkpoint_sha256"]
    return plain


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, small: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("study")
    return out, study(out)


@pytest.fixture
def done(finished, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of the finished study."""
    return shutil.copytree(finished[0], tmp_path / "done"), finished[1]


def test_rows_are_trained_and_played(finished) -> None:
    out, results = finished
    assert json.loads((out / "results.json").read_text()) == results
    protocol = results["protocol"]
    for row in ROWS:
        entry = protocol["entries"][TASK][row]
        assert entry["recipe"] == known.recipes()[f"{TASK}-{row}"]().hash()
        assert entry["parameters"] > 1000
        assert entry["training"]["steps"] == 2
        assert entry["held"]["400"]["bytes"] >= entry["held"]["25"]["bytes"] > 0
        for hold in ("1", "4"):
            lines = (out / "episodes" / f"{TASK}-{row}-hold{hold}" / "episodes.jsonl").read_text()
            found = [json.loads(line) for line in lines.splitlines()[1:]]
            rate = results["success"][TASK][row][hold]["success"]
            assert rate["hits"] == sum(line["success"] for line in found)
            assert rate["of"] == CASES
            assert all(line["chunks"] == 2 * int(hold) for line in found)
            assert entry["played_with"][hold][0]["commit"] == protocol["commit"]
        assert protocol["wall"]["milliseconds_per_act"][TASK][row]["25"] > 0
    held = {row: protocol["entries"][TASK][row]["held"] for row in ROWS}
    assert held["window"]["400"] == held["window"]["25"]
    assert held["hybrid"]["400"]["tokens"] - held["hybrid"]["25"]["tokens"] == 375 * 4
    for key in ("dtype", "device", "threads", "versions", "seed", "noise", "interval", "command"):
        assert key in protocol
    films = out / "episodes" / f"{TASK}-window-hold1" / "videos"
    assert len(list(films.iterdir())) == CASES
    assert not (out / "episodes" / f"{TASK}-window-hold4" / "videos").exists()


def test_a_killed_study_goes_on_to_the_same_results(
    done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, results = done
    out = tmp_path / "cut"
    for steps in (40, 150):
        monkeypatch.setattr(Stub, "left", steps)
        with pytest.raises(Cut):
            study(out)
        assert not (out / "results.json").exists()
    monkeypatch.setattr(Stub, "left", 10**6)
    assert timeless(study(out)) == timeless(results)


def test_pieces_stay_when_the_weights_are_gone(done, monkeypatch: pytest.MonkeyPatch) -> None:
    out, results = done
    for file in out.glob("training/*/*.safetensors"):
        file.unlink()
    monkeypatch.setattr(episodes, "Tabletop", Nobody)
    monkeypatch.setattr(entries, "run_recipe", Nobody)
    again = study(out)
    assert timeless(again) == timeless(results)
    for what in ("milliseconds_per_act", "training_minutes"):
        assert again["protocol"]["wall"][what] == results["protocol"]["wall"][what]
    with pytest.raises(LociError, match="would lose 1 of its cases"):
        study(out, CASES - 1)
    fewer = study(out, CASES - 1, replace=True)
    assert fewer["success"][TASK]["hybrid"]["4"]["success"]["of"] == CASES - 1
    with pytest.raises(LociError, match=r"1 of 4 episodes .*weights are gone; delete .*train it"):
        study(out, CASES + 1)
    with pytest.raises(LociError, match="weights are gone"):
        study(out, seed=1, replace=True)
    assert timeless(study(out)) == timeless(results)


def test_a_changed_recipe_is_trained_and_played_again(
    done, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, results = done
    folder = out / "training" / f"{TASK}-hybrid"
    (folder / "model.safetensors").unlink()
    monkeypatch.setitem(small, "batch", 1)
    kept = {log: log.read_bytes() for log in out.glob("episodes/*/episodes.jsonl")}
    films = sorted(out.glob("episodes/*/videos/*"))
    assert films
    with pytest.warns(UserWarning, match="has another recipe by now; the old run"):
        again = study(out)
    for row in ROWS:
        old, new = (found["protocol"]["entries"][TASK][row] for found in (results, again))
        assert new["recipe"] != old["recipe"]
        assert new["weights"] != old["weights"]
        logs = out.glob(f"episodes/{TASK}-{row}-hold4*/episodes.jsonl")
        keys = [json.loads(log.read_text().split("\n")[0]) for log in logs]
        assert {key["weights"] for key in keys} == {old["weights"], new["weights"]}
    # Nothing is deleted for another key, films included, ...
    assert all(log.read_bytes() == text for log, text in kept.items())
    assert all(film.exists() for film in films)
    # ... and what took long to train is put aside.
    (aside,) = (out / "training").glob(f"{TASK}-window.*")
    assert (aside / "model.safetensors").exists()


@pytest.mark.parametrize(("what", "value"), [("delay", 7), ("revision", 2)])
def test_a_changed_task_is_played_again_by_the_same_weights(
    done, monkeypatch: pytest.MonkeyPatch, what: str, value: int
) -> None:
    out, results = done
    monkeypatch.setattr(entries, "run_recipe", Nobody)
    monkeypatch.setattr(PutBackBlock, what, value)
    played: list[int] = []
    monkeypatch.setattr(episodes, "Tabletop", lambda task: played.append(task.hold) or Stub(task))
    again = study(out)
    assert sorted(played) == [1] * 2 * CASES + [4] * 2 * CASES
    old, new = (found["protocol"]["entries"][TASK] for found in (results, again))
    assert {row: new[row]["checkpoint_sha256"] for row in ROWS} == {
        row: old[row]["checkpoint_sha256"] for row in ROWS
    }


def test_more_cases_are_added_to_those_there_are(done, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = done
    played: list[int] = []
    monkeypatch.setattr(episodes, "Tabletop", lambda task: played.append(task.hold) or Stub(task))
    more = study(out, CASES + 2)
    assert len(played) == 2 * 2 * len(ROWS)
    assert more["success"][TASK]["window"]["1"]["success"]["of"] == CASES + 2


def test_foreign_weights_and_damaged_notes_are_named(done) -> None:
    out, _ = done
    folder = out / "training" / f"{TASK}-window"
    weights = (folder / "model.safetensors").read_bytes()
    shutil.copy(out / "training" / f"{TASK}-hybrid" / "model.safetensors", folder)
    with pytest.raises(LociError, match=r"made by another recipe; delete .*window"):
        study(out)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "row.json").write_text('{"recipe":')
    with pytest.raises(LociError, match=r"row\.json is damaged"):
        study(out)


def test_rows_and_tasks_are_chosen_by_name(tmp_path: Path) -> None:
    for task in ("cover-blocks", "press-button"):
        for row in POLICY_ROWS:
            finish(tmp_path, task, row, {1: 3, 4: 2}, 4)
    found = wam(tmp_path, ["ttt", "full"], ["press-button"], cases=4)
    assert list(found["success"]) == ["press-button"]
    assert list(found["success"]["press-button"]) == ["full", "ttt"]
    assert found["differences"]["press-button"] == {}
    with pytest.raises(LociError, match="no row 'hybird'; did you mean 'hybrid'"):
        wam(tmp_path, ["hybird"])
    with pytest.raises(LociError, match="no task 'press'"):
        wam(tmp_path, None, ["press"])
    with pytest.raises(LociError, match="0 cases"):
        wam(tmp_path, cases=0)
    with pytest.raises(LociError, match="seed -1"):
        wam(tmp_path, seed=-1)


def test_what_is_finished_is_reported_and_nothing_else_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LociError, match="nothing of that is finished"):
        wam(tmp_path, cases=4, finished=True)
    finish(tmp_path, TASK, "window", {1: 1, 4: 0}, 4)
    finish(tmp_path, TASK, "hybrid", {1: 4, 4: 3}, 4)
    finish(tmp_path, "cover-blocks", "hybrid", {1: 3, 4: 2}, 4)
    finish(tmp_path, "press-button", "hybrid", {1: 3, 4: 2}, 3)  # one episode short
    finish(tmp_path, "cover-blocks", "full", {1: 3, 4: 2}, 4)
    settings = tmp_path / "training" / "cover-blocks-full" / "config.json"
    settings.write_text(settings.read_text().replace('"batch": 2', '"batch": 3'))
    monkeypatch.setattr(episodes, "Tabletop", Nobody)
    monkeypatch.setattr(entries, "run_recipe", Nobody)
    found = wam(tmp_path, cases=4, finished=True)
    assert {task: list(rows) for task, rows in found["success"].items()} == {
        TASK: ["window", "hybrid"], "cover-blocks": ["hybrid"],
    }
    assert list(found["protocol"]["rows"]) == ["window", "hybrid"]
    assert found["protocol"]["command"].endswith(f"--tasks {TASK},cover-blocks --finished")
    # At one of the tasks the row is not finished.
    (line,) = (line for line in main(found).lines if line.name == "window")
    assert list(line.cells).count("–") == 2


def test_baselines_are_kept_and_made_again_for_other_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def ask(task: Task, episodes: int, training: int, first: int = 0) -> dict[str, int]:
        asked.append((task.hold, first))
        return guesses(task, episodes, training)

    monkeypatch.setattr(suites, "baselines", ask)
    finish(tmp_path, TASK, "window", {1: 1, 4: 1}, 4)
    for _ in range(2):
        found = wam(tmp_path, ["window"], [TASK], cases=4)
    assert asked == [(1, 0), (4, 0)]
    assert set(found["baselines"][TASK]["4"]) == set(BASELINES)
    wam(tmp_path, ["window"], [TASK], cases=3, replace=True)
    assert len(asked) == 4
    wam(tmp_path, ["window"], [TASK], cases=4)  # those of before are still there
    assert len(asked) == 4
    monkeypatch.setattr(PutBackBlock, "revision", 2)
    finish(tmp_path, TASK, "window", {1: 1, 4: 1}, 4)
    wam(tmp_path, ["window"], [TASK], cases=4)
    assert len(asked) == 6
    file = tmp_path / "baselines" / f"{TASK}-hold1.json"
    file.write_text("{")
    with pytest.raises(LociError, match="damaged"):
        wam(tmp_path, ["window"], [TASK], cases=4)


def test_differences_are_paired_and_never_certain() -> None:
    ours, theirs = [True] * 90 + [False] * 10, [True] * 20 + [False] * 80
    found = paired_shares(ours, theirs)
    assert found.mean == pytest.approx(0.7)
    assert 0.6 < found.lo < 0.65
    assert 0.75 < found.hi < 0.8
    # The same failures: nothing differs, and little is known of the episodes not played.
    same = paired_shares(ours, ours)
    assert same.mean == 0
    assert -0.06 < same.lo < 0 < same.hi < 0.06
    all_ = paired_shares([True] * 100, [False] * 100)
    assert all_.mean == all_.hi == 1
    assert 0.9 < all_.lo < 1


def test_the_console_table_fits_eighty_columns(tmp_path: Path) -> None:
    for row, hits in (("window", 25), ("hybrid", 100)):
        finish(tmp_path, TASK, row, {1: hits, 4: hits}, 100)
    results = wam(tmp_path, ["window", "hybrid"], [TASK], cases=100)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(console_table(table(results)))
    text = console.export_text()
    assert "…" not in text
    line = next(line for line in text.splitlines() if line.strip().startswith("hybrid"))
    assert line.split("  ", 3)[-1].count("100 [96, 100]") == 4
    for name in (*BASELINES, "window", "chance"):
        assert name in text


def test_baselines_play_the_studys_own_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def play(env: Any, seed: int, *_: Any) -> Outcome:
        seeds.append(seed)
        return Outcome(seed % 2 == 0, {}, "", 1)

    monkeypatch.setattr(floors, "play", play)
    found = floors.baselines(PutBackBlock(), 3, 1, ["oracle-state"], first=2000)
    assert [seed for seed in seeds if seed < floors.TRAINING] == [2000, 2001, 2002]
    assert found["oracle-state"] == 2
