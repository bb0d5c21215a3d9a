"""Tiny policies are trained and played, those that ship play two episodes, costs are counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import demonstrations
from golden import entry_points as loci
from golden.pins import masked, pins, printed_lines, table_rows

TASK = "put-back-block"
MACHINE = ("protocol/commit", "protocol/device", "protocol/matmul")
# What is measured in time: of each only how often.
TIMES = tuple(
    f"rows/*/*/*_{what}/{figure}" for what in ("ms", "ratio") for figure in ("median", "lo", "hi")
)


class Stub:
    """A table whose episodes last two chunks for each hold; it keeps what it was told to do."""

    told: ClassVar[list[Stub]] = []

    def __init__(self, task: Any):
        self.task = task
        Stub.told.append(self)

    def reset(self, *, seed: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.seed, self.steps, self.total = seed, 0, np.zeros(14)
        return self.observe(), {}

    def observe(self) -> dict[str, Any]:
        draw = np.random.default_rng([self.seed or 0, self.steps])
        image = draw.integers(0, 256, (32, 48, 3)).astype(np.uint8)
        return {"pixels": {"head": image}, "agent_pos": np.tanh(self.total)}

    def advance(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.total += action
        over = self.steps >= 8 * 2 * self.task.hold
        # Far from what any of the episodes comes to, which is also pinned.
        won = over and float(self.total.sum()) > -7.5 * self.steps
        stages = dict.fromkeys(self.task.stages, over) | {"right": won}
        return 0.0, over, False, {
            "is_success": won, "stages": stages, "failure": "" if won else "wrong mat",
        }


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[None]:
    """Recipes that take a second, on two episodes that were made up."""
    dataset = tmp_path / "demonstrations"
    demonstrations.write(dataset, [20, 17])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loci.RECIPE, partial(loci.tiny_recipe, dataset))
        patch.setattr(loci.TABLETOP, Stub)
        patch.setattr(loci.ANSWERS, 8)
        patch.setattr(Stub, "told", [])
        yield


def test_a_tiny_study_of_policies_gives_the_same(tiny: None, tmp_path: Path) -> None:
    out = tmp_path / "wam"
    printed = loci.command(
        "study", "wam", "--rows", "window,hybrid", "--tasks", TASK, "--cases", 4, "--out", out
    )
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    entry = "protocol/entries/*/*"
    # Hashes of recipes and policies are in hashes.json; here the recipe knows its folder.
    history = [f"{entry}/{what}" for what in (
        "recipe", "config", "checkpoint_sha256", "weights", "played_with", "training/protocol",
    )]
    volatile = (*MACHINE, "protocol/threads", "protocol/versions", "protocol/wall", *history)
    page = (out / "report.html").read_text(encoding="utf-8")
    told = [[env.task.hold, env.seed, env.steps, *map(float, env.total)] for env in Stub.told]
    # The pins take row by row, a study plays hold by hold: four episodes of each row.
    told = [told[4 * some + n] for some in (0, 2, 1, 3) for n in range(4)]
    with pins("tiny_policies") as check:
        for section, figures in masked(results, volatile).items():
            check(f"wam, {section}", figures)
        check("wam, told to do", told)
        check("wam, printed", printed_lines(printed), texts=True)
        check("wam, report", table_rows(page), texts=True)


@pytest.mark.parametrize("task", [TASK, "cover-blocks", "press-button"])
def test_a_policy_that_ships_does_the_same(task: str, tmp_path: Path) -> None:
    printed = loci.command(
        "eval", "closed-loop", f"{task}-hybrid", "--task", task, "--episodes", 2, "--films", 0,
        "--out", tmp_path / task,
    )
    results = json.loads((tmp_path / task / "results.json").read_text(encoding="utf-8"))
    volatile = (*MACHINE, "protocol/checkpoint_sha256", "protocol/config")
    lines = (tmp_path / task / "episodes.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    with pins("tiny_policies") as check:
        # Since then the protocol says more of the machine.
        check(f"{task}, results", masked(results, volatile), more=True)
        check(f"{task}, episodes", [json.loads(line) for line in lines])
        # The word was another one then.
        printed = printed.replace("cue held", "fact held")
        check(f"{task}, printed", printed_lines(printed), texts=True)


@pytest.mark.parametrize(("name", "options", "volatile"), [
    ("rooms", ("--rows", "hybrid,joint-5,delta", "--frames", "5,45"), ()),
    ("policies", ("--policy", "small", "--frames", "5,20", "--memory", 1),
     ("protocol/rows/*/config", "compared/*/*/median", "compared/*/*/lo", "compared/*/*/hi")),
])
def test_costs_are_counted_the_same(
    name: str, options: tuple[object, ...], volatile: tuple[str, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loci.BENCH_DTYPE, lambda *_: torch.float32)
    file = tmp_path / "bench.json"
    printed = loci.command("bench", *options, "--repeats", 1, "--out", file)
    results = masked(
        json.loads(file.read_text(encoding="utf-8")),
        (*MACHINE, *TIMES, *volatile, "protocol/cpu", "protocol/threads", "protocol/versions",
         "protocol/seconds"),
    )
    # Frames, row, tokens and kB: the rest of a line is times.
    lines = [line.split()[:4] for line in printed.splitlines()]
    counted = [" ".join(words) for words in lines if words[1:] and words[1] in results["rows"]]
    with pins("tiny_policies") as check:
        for section, figures in results.items():
            check(f"bench of {name}, {section}", figures)
        check(f"bench of {name}, printed", counted)
