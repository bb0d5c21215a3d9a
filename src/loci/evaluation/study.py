"""A study: rows that differ in one line, on the same cases, with the same noise.

Results are kept for each (branch, row) as they finish, under a key of everything they depend on,
so that a study that was killed goes on to the same numbers.

    results.json    protocol, rows, gains, cost
    cases.json      what every row scored on every case, object by object
    report.html     everything above, to be looked at
    parts/          finished (branch, row) pairs; rollouts/: frames of the cases that are shown
    episodes/       the rendered truth; training/: rows trained from scratch
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loci.checkpoint import commit
from loci.errors import LociError, nearest
from loci.evaluation import results as tables
from loci.evaluation.baselines import CEILINGS, FLOORS
from loci.evaluation.branches import BRANCHES
from loci.evaluation.objects import CaseScore
from loci.evaluation.runner import Contender, Runner
from loci.evaluation.statistics import DRAWS, LEVEL
from loci.evaluation.statistics import SEED as BOOTSTRAP_SEED
from loci.files import atomic_write
from loci.models.world import WorldModel
from loci.training.numerics import (
    device_name,
    matmul_precision,
    pick_device,
    reproducible,
)
from loci.training.run import run_recipe


@dataclass(frozen=True)
class Row:
    """One memory configuration: its recipe, and the checkpoint that ships under its name."""

    name: str
    recipe: str

    def checkpoint(self) -> Path:
        """Where the shipped checkpoint lies."""
        folder = importlib.resources.files("loci") / "checkpoints"
        return Path(str(folder / f"{self.name}.safetensors"))


@dataclass(frozen=True)
class Study:
    """What is compared, and the sentence that a report begins with."""

    name: str
    question: str
    rows: tuple[Row, ...]


STUDIES: dict[str, Study] = {
    s.name: s
    for s in (
        Study(
            "ground",
            "The camera leaves and comes back: which memory still knows what was there?",
            tuple(
                Row(name, f"rooms-{name}")
                for name in ("none", "context-1", "context-5", "context-20", "hybrid")
            ),
        ),
    )
}


def run_study(
    name: str,
    out: str | Path,
    rows: Sequence[str] | None = None,
    cases: int = 64,
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
        raise LociError(f"unknown study '{name}'{nearest(name, STUDIES)}")
    study, out = STUDIES[name], Path(out)
    chosen = _choose(study, rows)
    if cases < 1:
        raise LociError(f"{cases} cases show nothing; ask for 1 or more")
    if seed < 0:
        raise LociError(f"seed {seed} is negative; give 0 or more")
    device = pick_device()
    contenders = []
    for row in chosen:
        path = train_row(row, out) if from_scratch else row.checkpoint()
        if not path.exists():
            raise LociError(
                f"no checkpoint ships for row '{row.name}'; train it with --from-scratch"
            )
        contenders.append(load_row(row.name, path, device))
    results = evaluate(study.name, contenders, out, cases, seed)
    # The report draws on matplotlib and PyAV; an evaluation that is only read does not need them.
    from loci.report.page import write_report

    write_report(out)
    return results


def _choose(study: Study, names: Sequence[str] | None) -> list[Row]:
    known = {row.name: row for row in study.rows}
    if names is None:
        return list(study.rows)
    for name in names:
        if name not in known:
            raise LociError(f"study '{study.name}' has no row '{name}'{nearest(name, known)}")
    if not names:
        raise LociError(f"no row is named; name some of {', '.join(known)}")
    return [row for row in study.rows if row.name in names]


def train_row(row: Row, out: Path) -> Path:
    """The row's checkpoint, trained in out/training/<row>; a run that was killed is continued."""
    folder = out / "training" / row.name
    model = folder / "model.safetensors"
    if not model.exists():
        print(f"training {row.name} into {folder}", file=sys.stderr, flush=True)
        run_recipe(row.recipe, folder, resume=True)
    return model


def load_row(name: str, path: Path, device: torch.device) -> Contender:
    """A checkpoint as a contender, known by the digest of its file."""
    model = WorldModel.load(path).to(device)
    return Contender(
        name=name,
        model=model,
        config_hash=model.config.hash(),
        checkpoint=hashlib.sha256(path.read_bytes()).hexdigest(),
        parameters=sum(p.numel() for p in model.parameters()),
    )


def evaluate(
    study: str,
    contenders: Sequence[Contender],
    out: Path,
    cases: int,
    seed: int,
    branches: Sequence[str] = tuple(BRANCHES),
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
                "parameters": c.parameters,
            }
            for c in contenders
        },
        "floors": [*FLOORS, *([tables.FLOOR] if tables.FLOOR in scores[branches[0]] else [])],
        "ceilings": list(CEILINGS),
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
    results = {
        "protocol": protocol,
        "rows": tables.aggregate(scores),
        "gains": tables.gains(scores, [c.name for c in contenders]),
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
