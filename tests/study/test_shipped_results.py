"""Every figure of the studies that ship is what the engine makes of what lies in their folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from loci.study import entry
from loci.study import run as engine
from loci.study.rooms import suite as rooms
from loci.study.store import Store
from loci.study.studies import StudyOptions, plan_study
from loci.training.trainer import Stopped

RESULTS = Path(__file__).parents[2] / "results"
# What says how and when it was made, on which machine.
AROUND = ("commit", "device", "matmul", "threads", "versions", "wall", "command", "dtype")


def figures(results: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """The results without what depends on the machine, as JSON gives them back. sections: those of
    the recorded results; earlier ones had no rankings."""
    protocol = {k: v for k, v in results["protocol"].items() if k not in AROUND}
    found = {name: results[name] for name in sections if name != "protocol"}
    return json.loads(json.dumps({**found, "protocol": protocol}))


@pytest.mark.parametrize("study", [
    pytest.param("families", marks=pytest.mark.slow), "returns", "wam",
    pytest.param("geometry", marks=pytest.mark.slow),
])
def test_the_engine_gives_the_recorded_figures(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model: nothing of it is trained, played, rendered or measured again."""
    recorded = json.loads((RESULTS / study / "results.json").read_text())
    out = tmp_path / study
    shutil.copytree(RESULTS / study, out, ignore=shutil.ignore_patterns("rollouts", "videos"))
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("what is finished was made again")

    for maker in ("prepare", "rollout", "Probe", "baseline"):
        monkeypatch.setattr(rooms, maker, never)
    cost = recorded.get("cost", {})
    monkeypatch.setattr(rooms, "costs", lambda entries, *_: {
        name: {"held": cost[name], "milliseconds": 0.0} for name in entries
    })
    rows = list(recorded["protocol"]["rows"])
    plan = plan_study(study, out, StudyOptions(rows=rows))
    assert (plan.untrained, plan.seconds) == ([], 0.0)
    again = engine.run(plan.suite, Store(out))
    assert figures(again, recorded) == figures(recorded, recorded)
    # Nothing that was there is changed or gone.
    assert {file: file.read_bytes() for file in before} == before


def test_a_new_row_alone_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over what ships, a study trains the row of which nothing is there, and says so before."""
    out = tmp_path / "families"
    shutil.copytree(RESULTS / "families", out, ignore=shutil.ignore_patterns("rollouts"))
    rows = list(json.loads((out / "results.json").read_text())["protocol"]["rows"])
    shutil.rmtree(out / "training" / "full")
    for part in (out / "parts").glob("*.full.json.gz"):
        part.unlink()
    plan = plan_study("families", out, StudyOptions(rows=rows))
    assert [variant.name for variant in plan.untrained] == ["full"]
    # Its training, then all branches and the probe.
    played = plan.suite.cases * rooms.SECONDS * len(plan.suite.conditions)
    assert plan.seconds == 60 * plan.suite.minutes + played
    trained: list[str] = []

    def train(recipe: str, *_: object, **__: object) -> None:
        trained.append(recipe)
        raise Stopped("stopped here")

    monkeypatch.setattr(entry, "run_recipe", train)
    with pytest.raises(KeyboardInterrupt):
        engine.make(plan)
    assert trained == ["rooms-full"]
