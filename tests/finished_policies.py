"""Rows of the study of policies as they lie there when their weights are gone, made up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loci.io.files import atomic_write
from loci.recipes.registry import recipes
from loci.study.entry import Entry
from loci.study.tabletop.suite import TabletopSuite
from loci.worlds.tabletop.tasks import make_task

KINDS = ("wrong mat", "not pressed", "taken too early")


def finish(
    out: Path, task: str, row: str, hits: Mapping[int, int], cases: int, parameters: int = 1_500_000
) -> None:
    """A row that succeeded in the first `hits[hold]` of `cases` episodes, with a log of training.

    Of those that failed every second one came as far as the stage before the last.
    """
    run: Any = recipes()[f"{task}-{row}"]()
    folder = out / "training" / f"{task}-{row}"
    note = {
        "recipe": run.hash(), "config": run.model.hash(),
        "checkpoint": "0" * 64, "weights": f"{row}{task}",
        "parameters": parameters,
        "training": {
            "steps": 1000, "minutes": 20.5, "loss": 0.02, "protocol": {},
        },
        "cost": {
            str(frames): {"tokens": held, "bytes": 1024 * held, "milliseconds": 30.0 + held / 100}
            for frames in (25, 400) for held in [_tokens(row, frames)]
        },
        "cost_measured": {"device": "made up", "threads": 1},
    }
    atomic_write(folder / "config.json", run.to_json() + "\n")
    atomic_write(folder / "row.json", json.dumps(note))
    fall = 1.0 if max(hits.values()) > cases / 2 else 0.4
    losses = [
        {"step": step, "loss": 0.03 + math.exp(-fall * step / 200) + 0.01 * (step % 30) / 30}
        for step in range(10, 1001, 10)
    ]
    atomic_write(
        folder / "train.jsonl", "".join(json.dumps(x) + "\n" for x in [{"event": "start"}, *losses])
    )
    suite = TabletopSuite("wam", cases=cases)
    suite.entries = {task: {row: Entry(f"{task}-{row}", run.embodied(), note)}}
    for hold, count in hits.items():
        config = make_task(task, hold)
        key = dict(suite.episodes(task, row, hold).key)
        lines = [_line(config.stages, n, n < count) for n in range(cases)]
        atomic_write(
            out / "episodes" / f"{task}-{row}-hold{hold}" / "episodes.jsonl",
            "".join(json.dumps(x) + "\n" for x in [key, *lines]),
        )


def _line(stages: tuple[str, ...], episode: int, success: bool) -> dict[str, Any]:
    far = len(stages) if success else len(stages) - 1 - episode % 2
    return {
        "episode": episode, "success": success, "chunks": 20 + episode % 5,
        "stages": {name: place < far for place, name in enumerate(stages)},
        "failure": "" if success else KINDS[episode % 3],
    }


def _tokens(row: str, frames: int) -> int:
    kept = {"window": 40, "full": 20 * frames, "rnn": 44, "ttt": 90, "no-gists": 60}
    return kept.get(row, 60 + 4 * frames)
