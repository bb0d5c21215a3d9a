"""A study: rows that differ in one line, on the same cases, with the same noise.

Results are kept for each (branch, row) as they finish, under a key of everything they depend on,
so that a study that was killed goes on to the same numbers.

    results.json    protocol, rows, rankings, gains, retention, probe, cost
    cases.json      what every row scored on every case, object by object
    report.html     everything above, to be looked at
    parts/          finished (branch, row) pairs; rollouts/: frames of the cases that are shown
    episodes/       the rendered truth; training/: rows trained here, and what is known of them

A study of many rows may be made in pieces, on several days: what a row scored stays with `parts/`
and `training/<row>/row.json`, also when its weights are gone.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loci.errors import LociError, did_you_mean
from loci.io.bundled import bundled
from loci.io.checkpoint import commit, digest, load_checkpoint
from loci.io.files import atomic_write
from loci.io.user_code import describe_sources, source_files
from loci.memory import ROWS
from loci.models.world import WorldModel
from loci.recipes.registry import REVISIT, find_recipe, run_recipe
from loci.study import results as tables
from loci.study.estimates import DRAWS, LEVEL
from loci.study.estimates import SEED as BOOTSTRAP_SEED
from loci.study.rooms.baselines import CEILINGS, FLOORS
from loci.study.rooms.branches import BRANCHES
from loci.study.rooms.objects import CaseScore
from loci.study.rooms.probe import BLIND, LATENTS
from loci.study.rooms.retention import retention
from loci.study.runner import Contender, Runner
from loci.training.numerics import (
    device_name,
    matmul_precision,
    pick_device,
    reproducible,
)
from loci.training.world import WorldRun

# Rooms a branch.
CASES = 64


@dataclass(frozen=True)
class Row:
    """One memory configuration: its recipe, and the checkpoint that ships under its name."""

    name: str
    recipe: str


@dataclass(frozen=True)
class Study:
    """What is compared, and the sentence that a report begins with.

    names: the rows, asked for when the study is run, so that a row of yours is among them. trains:
    rows of which no checkpoint ships are trained by the study. probes: what rows
    write is asked as well; see `loci.study.rooms.probe`.
    """

    name: str
    question: str
    names: Callable[[], Sequence[str]]
    trains: bool = False
    probes: bool = False
    page: int | None = None

    @property
    def rows(self) -> list[Row]:
        """Each name with its recipe: rooms-ROW, or its own where it names an objective too."""
        return [
            Row(name, name if name.startswith(REVISIT) else f"rooms-{name}")
            for name in self.names()
        ]


STUDIES: dict[str, Study] = {
    s.name: s
    for s in (
        Study(
            "ground",
            "The camera leaves and comes back: which memory still knows what was there?",
            lambda: ("none", "context-1", "context-5", "context-20", "hybrid"),
        ),
        Study(
            "families",
            "Only the memory changes: what does each way to remember bring back, and at what cost?",
            lambda: tuple(ROWS),
            trains=True,
            probes=True,
            page=2_000_000,
        ),
        Study(
            "returns",
            "Only the objective changes: what does a memory learn when returns count again?",
            lambda: ("none", "tower", f"{REVISIT}tower", "spatial", f"{REVISIT}spatial"),
            trains=True,
            probes=True,
            page=2_000_000,
        ),
    )
}


def run_study(
    name: str,
    out: str | Path,
    rows: Sequence[str] | None = None,
    cases: int = CASES,
    seed: int = 0,
    from_scratch: bool = False,
) -> dict[str, Any]:
    """Evaluate a study's rows (all, or those named) and write everything into the folder `out`.

    cases: rooms a branch. seed picks the held-out rooms. from_scratch trains the rows first, into
    out/training/<row>, instead of loading the checkpoints that ship. Returns what results.json
    holds. Raises LociError for an unknown study or row, a missing checkpoint, too few cases, or
    what cannot be written.
    """
    if name not in STUDIES:
        raise LociError(f"unknown study '{name}'{did_you_mean(name, STUDIES)}")
    study, out = STUDIES[name], Path(out)
    chosen = _choose(study, rows)
    if cases < 1:
        raise LociError(f"{cases} cases show nothing; ask for 1 or more")
    if seed < 0:
        raise LociError(f"seed {seed} is negative; give 0 or more")
    device = pick_device()
    contenders = []
    for row in chosen:
        if not from_scratch and (ships := bundled(row.name)).exists():
            contenders.append(load_row(row, ships, device))
        elif study.trains or from_scratch:
            contenders.append(finished_row(row, out) or load_row(row, train_row(row, out), device))
        else:
            raise LociError(
                f"no checkpoint ships for row '{row.name}'; train it with --from-scratch"
            )
    results = evaluate(study.name, contenders, out, cases, seed, probes=study.probes)
    # The report draws on matplotlib and PyAV; an evaluation that is only read does not need them.
    from loci.report.page import LIMIT, write_report

    write_report(out, study.page or LIMIT)
    return results


def _choose(study: Study, names: Sequence[str] | None) -> list[Row]:
    known = {row.name: row for row in study.rows}
    if names is None:
        return study.rows
    for name in names:
        if name not in known:
            raise LociError(f"study '{study.name}' has no row '{name}'{did_you_mean(name, known)}")
    if not names:
        raise LociError(f"no row is named; name some of {', '.join(known)}")
    return [row for row in study.rows if row.name in names]


def train_row(row: Row, out: Path) -> Path:
    """The row's checkpoint, trained in out/training/<row>; a run that was killed is continued.

    What was trained is noted beside it, in row.json. Raises LociError where the row's file was
    changed since.
    """
    folder = out / "training" / row.name
    model = folder / "model.safetensors"
    if not model.exists():
        print(f"training {row.name} into {folder}", file=sys.stderr, flush=True)
        run_recipe(row.recipe, folder, resume=True)
    found = load_row(row, model, torch.device("cpu"))
    trained = load_checkpoint(model, WorldRun.kind).metadata["training"].get("protocol", {})
    files = source_files(found.model.config.memory)
    if trained.get("files", []) != files.get("files", []):
        raise LociError(
            f"{folder} holds '{row.name}' trained with {describe_sources(trained)}, "
            f"now it is {describe_sources(files)}; "
            "bring that file back, or delete the folder to train the row again"
        )
    note = {
        "config": found.config_hash, "checkpoint": found.checkpoint,
        "parameters": found.parameters, "codec": found.codec, **files,
    }
    atomic_write(folder / "row.json", _json(note))
    return model


def finished_row(row: Row, out: Path) -> Contender | None:
    """A row that was trained and scored here before, and whose weights are gone.

    None where there is none, or where the recipe or the row's file is another one by now.
    """
    folder = out / "training" / row.name
    if (folder / "model.safetensors").exists() or not (folder / "row.json").exists():
        return None
    try:
        note = json.loads((folder / "row.json").read_text())
    except ValueError as error:
        raise LociError(f"{folder / 'row.json'} is damaged ({error}); delete it") from error
    run = find_recipe(row.recipe)()
    if not isinstance(run, WorldRun) or run.world.hash() != note["config"]:
        return None
    if note.get("files") != source_files(run.world.memory).get("files"):
        return None
    model = run.world.build().eval()
    run.init.fill_codec(model.codec)
    return Contender(
        row.name, model, note["config"], note["checkpoint"], note["parameters"], note["codec"],
        finished=True,
    )


def load_row(row: Row, path: Path, device: torch.device) -> Contender:
    """A checkpoint as a contender, known by the digest of its file."""
    model = WorldModel.load(path).to(device)
    return Contender(
        name=row.name,
        model=model,
        config_hash=model.config.hash(),
        checkpoint=hashlib.sha256(path.read_bytes()).hexdigest(),
        parameters=sum(p.numel() for p in model.parameters()),
        codec=digest(dict(model.codec.state_dict())),
    )


def evaluate(
    study: str,
    contenders: Sequence[Contender],
    out: Path,
    cases: int,
    seed: int,
    branches: Sequence[str] = tuple(BRANCHES),
    probes: bool = False,
) -> dict[str, Any]:
    """Run every contender through the branches; write results.json and cases.json into `out`.

    Contenders must agree on camera, chunk, steps and latent shape, or the noise would not be the
    same. Raises LociError where they do not.
    """
    began = time.monotonic()
    device = next(iter(contenders[0].model.parameters()), torch.empty(0)).device
    runner = Runner(contenders, out, cases, seed)
    with matmul_precision("exact", device) as precision, reproducible(device):
        scores = runner.run([BRANCHES[name] for name in branches])
        probe = {"probe": runner.probe()} if probes else {}
        cost, milliseconds = runner.cost()
    model = contenders[0].model
    protocol = {
        "study": study,
        "case_count": cases,
        "seed": seed,
        "cases": {b: [c.key for c in BRANCHES[b].cases(cases, seed)] for b in branches},
        "rows": {
            c.name: {
                "config": c.config_hash, "checkpoint_sha256": c.checkpoint,
                "parameters": c.parameters, **source_files(c.model.config.memory),
            }
            for c in contenders
        },
        "floors": [
            *FLOORS, *([tables.FLOOR] if tables.FLOOR in scores[branches[0]] else []),
            *([BLIND] if probes else []),
        ],
        "ceilings": [*CEILINGS, *([LATENTS] if probes else [])],
        "chunk": model.config.chunk,
        "steps": model.config.steps,
        "camera": model.config.camera.to_dict(),
        "noise": "sha256 of (seed, 'noise', case, chunk); the same for every row",
        "interval": {
            "method": "percentile bootstrap over cases (Wilson where all trials agree)",
            "level": LEVEL, "draws": DRAWS, "seed": BOOTSTRAP_SEED,
        },
        "commit": commit(),
        "dtype": "float32",
        "matmul": precision,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "command": f"loci study {study} --cases {cases} --seed {seed}"
        + f" --rows {','.join(c.name for c in contenders)}",
        "wall": {
            "seconds": round(time.monotonic() - began, 1),
            "milliseconds_per_chunk": {k: round(v, 2) for k, v in milliseconds.items()},
        },
    }
    rows = tables.aggregate(scores)
    results = {
        "protocol": protocol,
        "rows": rows,
        "rankings": tables.rankings(rows, [c.name for c in contenders]),
        "gains": tables.gains(scores, [c.name for c in contenders]),
        "retention": retention(scores.get("recall", {})),
        "probe": {row: found["probe"] for row, found in tables.aggregate(probe).items()},
        "cost": cost,
    }
    atomic_write(out / "cases.json", _json(_single(scores, protocol["cases"])))
    atomic_write(out / "results.json", _json(results))
    return results


def _single(
    scores: dict[str, dict[str, list[CaseScore]]], keys: dict[str, list[str]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """branch -> row -> case -> its metrics as [total, count] and its objects."""
    return {
        branch: {
            row: {k: s.to_dict() for k, s in zip(keys[branch], cases, strict=True)}
            for row, cases in rows.items()
        }
        for branch, rows in scores.items()
    }


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, allow_nan=False) + "\n"
