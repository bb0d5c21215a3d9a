"""One row of the study of policies at one task: trained, known by a note, and played.

What was trained and what was played stay valid when the weights are gone, so that a study can be
made in pieces, on several days: `training/TASK-ROW/row.json` says what the weights were, and
`episodes/TASK-ROW-holdH/` holds a line for each episode under a key of everything that it depends
on. A recipe that changed is trained again, and what others have played is played again.
Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loci.errors import LociError
from loci.io.checkpoint import commit, load_checkpoint
from loci.io.files import atomic_write
from loci.io.progress import Progress
from loci.models.world_action import WorldActionModel
from loci.recipes.registry import find_recipe, run_recipe
from loci.study.bench.policy_cost import hold as cost
from loci.study.tabletop.closed_loop import Loop, read_lines, run_closed_loop
from loci.training.folder import RunFolder
from loci.training.numerics import device_name, matmul_precision, pick_device, reproducible
from loci.training.policy import PolicyRun
from loci.worlds.tabletop.env import ACTION, Tabletop
from loci.worlds.tabletop.tasks import make_task
from loci.worlds.tabletop.tasks.base import Task

# Raise it whenever an episode changes its meaning: those of another version are played again.
VERSION = 1


@dataclass(frozen=True)
class PolicyRow:
    """A row at a task. `note` is what row.json says; `model` is None where the weights are gone."""

    task: str
    row: str
    run: PolicyRun
    note: dict[str, Any]
    model: WorldActionModel | None

    @property
    def name(self) -> str:
        return f"{self.task}-{self.row}"

    def key(self, task: Task, loop: Loop) -> dict[str, Any]:
        """Everything that the row's episodes of a task depend on, as JSON gives it back."""
        key = {
            "version": VERSION, "recipe": self.note["recipe"], "weights": self.note["weights"],
            "task": task.to_dict() | told(task), "seed": loop.seed, "first_seed": loop.first,
            "cameras": list(loop.cameras), "steps": self.run.model.steps,
        }
        return json.loads(json.dumps(key))


def _recipe(task: str, row: str) -> PolicyRun:
    """What a row is trained with at a task."""
    run = find_recipe(f"{task}-{row}")()
    if not isinstance(run, PolicyRun):
        raise LociError(f"recipe '{task}-{row}' trains no policy")
    return run


def known(task: str, row: str, out: Path) -> PolicyRow | None:
    """The row at the task as out/training/TASK-ROW tells of it, without its weights; None where it
    was not trained there, or by another recipe."""
    run, folder = _recipe(task, row), out / "training" / f"{task}-{row}"
    note = _note(folder)
    same = RunFolder(folder, run).holds(note.get("recipe", ""))
    return PolicyRow(task, row, run, note, None) if same else None


def trained(task: str, row: str, out: Path) -> PolicyRow:
    """The row at the task: as it was trained in out/training/TASK-ROW, or trained there now.

    A run that was killed goes on. One of another recipe is put aside, in a folder named after that
    recipe. Raises LociError for a damaged note or checkpoint.
    """
    run, name = _recipe(task, row), f"{task}-{row}"
    folder = out / "training" / name
    model = folder / "model.safetensors"
    _put_aside(folder, run)
    if not model.exists():
        if found := known(task, row, out):
            return found
        print(f"training {name} into {folder}", file=sys.stderr, flush=True)
        run_recipe(name, folder, resume=True)
    policy, note = WorldActionModel.load(model).to(pick_device()), _note(folder)
    checkpoint = hashlib.sha256(model.read_bytes()).hexdigest()
    if note.get("checkpoint") != checkpoint:
        note = _describe(run, policy, model, checkpoint)
        atomic_write(folder / "row.json", json.dumps(note, indent=1) + "\n")
    return PolicyRow(task, row, run, note, policy)


def _put_aside(folder: Path, run: PolicyRun) -> None:
    """Make room where `folder` holds what another recipe has trained: it took long to make."""
    settings = folder / "config.json"
    if RunFolder(folder, run).recorded() in (None, json.loads(run.to_json())):
        return
    old = hashlib.sha256(settings.read_bytes()).hexdigest()[:8]
    aside = folder.with_name(f"{folder.name}.{old}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    print(f"{folder.name} has another recipe by now; the old run: {aside}", file=sys.stderr)


def _note(folder: Path) -> dict[str, Any]:
    """What row.json says; nothing where it is not there."""
    file = folder / "row.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise LociError(f"{file} is damaged ({error}); delete it") from error


def _describe(
    run: PolicyRun, model: WorldActionModel, file: Path, checkpoint: str
) -> dict[str, Any]:
    """The note of a row whose weights are there."""
    metadata = load_checkpoint(file, PolicyRun.kind).metadata
    training = metadata["training"]
    if not RunFolder(file.parent, run).holds(training.get("protocol", {}).get("config", "")):
        raise LociError(f"{file} was made by another recipe; delete {file.parent} to train again")
    device = next(model.parameters()).device
    with matmul_precision("exact", device), reproducible(device):
        held = cost(model)
    return {
        "recipe": run.hash(),
        "config": model.config.hash(),
        "checkpoint": checkpoint,
        "weights": metadata["digest"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": training,
        "cost": held,
        "cost_measured": {"device": device_name(device), "threads": torch.get_num_threads()},
    }


def missing(found: PolicyRow, hold: int, loop: Loop, cases: int, out: Path) -> int:
    """How many of the first `cases` episodes the row has not played, or other weights have."""
    lines = read_lines(_folder(found, hold, out) / "episodes.jsonl")
    if lines[:1] != [found.key(make_task(found.task, hold), loop)]:
        return cases
    return cases - len({line["episode"] for line in lines[1:]} & set(range(cases)))


def played(
    found: PolicyRow, hold: int, loop: Loop, cases: int, out: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(a line for each of the first `cases` episodes, how they came about) of a row whose fact is
    held `hold` times as long; those that are missing are played now.

    Raises LociError where some are missing and the weights are gone, and for a model that does not
    fit the table.
    """
    task, folder = make_task(found.task, hold), _folder(found, hold, out)
    log, key = folder / "episodes.jsonl", found.key(task, loop)
    if left := missing(found, hold, loop, cases, out):
        if found.model is None:
            raise LociError(
                f"{left} of {cases} episodes of {found.name}, fact held {hold} times, are "
                f"missing, and its weights are gone; delete {out / 'training' / found.name} to "
                "train it again, or give the --cases and --seed that it was played with"
            )
        if log.exists() and read_lines(log)[:1] != [key]:
            print(f"{folder} is played again: it is another policy's or task's", file=sys.stderr)
            shutil.rmtree(folder)
        _play(found.model, task, loop, cases, folder, key, found.name)
    first = [line for line in read_lines(log)[1:] if line["episode"] < cases]
    return sorted(first, key=lambda line: line["episode"]), _sessions(folder)


def _folder(found: PolicyRow, hold: int, out: Path) -> Path:
    return out / "episodes" / f"{found.name}-hold{hold}"


def told(task: Task) -> dict[str, Any]:
    """What a task says of itself."""
    says = {
        "instruction": task.instruction, "stages": list(task.stages), "chance": task.chance,
        "facts": len(task.cues), "gap": task.delay, "chunks": task.chunks,
    }
    # Left out at first: results are older than it.
    return says | ({"revision": task.revision} if task.revision > 1 else {})


def _play(
    model: WorldActionModel, task: Task, loop: Loop, cases: int, folder: Path,
    key: dict[str, Any], name: str,
) -> None:
    expert, device = model.config.expert, next(model.parameters()).device
    if (expert.actions, expert.proprio) != (ACTION, ACTION):
        raise LociError(
            f"{name} acts with {expert.actions} numbers and feels {expert.proprio}; the tabletop "
            f"has {ACTION} of both"
        )
    with matmul_precision("exact", device) as precision, reproducible(device):
        now = made_with(device, precision)
        before = _sessions(folder)
        if before[-1:] != [now]:
            atomic_write(folder / "made.json", json.dumps([*before, now], indent=1) + "\n")
        with Progress(f"{name}, fact held {task.hold} times", cases) as progress:

            def report(done: int, _: int, hits: int) -> None:
                progress.advance(done - progress.done, f"{hits} of {done} succeeded")

            run_closed_loop(model, lambda: Tabletop(task), loop, cases, folder, key, report)


def _sessions(folder: Path) -> list[dict[str, Any]]:
    """With what the episodes of a folder were played, one for each time that it changed."""
    file = folder / "made.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    except ValueError as error:
        raise LociError(f"{file} is damaged ({error}); delete {folder}") from error


def made_with(device: torch.device, precision: str) -> dict[str, Any]:
    """The code and the machine that numbers come from, for protocols."""
    return {
        "commit": commit(), "device": device_name(device), "dtype": "float32",
        "matmul": precision, "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
