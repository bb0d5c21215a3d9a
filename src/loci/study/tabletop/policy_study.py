"""The study of policies: rows that differ in their memory, at every task, in closed loop.

Each row is trained at each task under one recipe, and plays the same seeded episodes with the same
noise: with the fact held as long as in training, and four times as long.

    results.json    protocol, success, baselines, differences
    report.html     everything, to be looked at
    training/       TASK-ROW: settings, log, weights, and row.json, what is known of them
    episodes/       TASK-ROW-holdH: a line an episode, and films of some
    baselines/      TASK-holdH.json: what the expert's hands are worth without memory

It may be made in pieces: what is finished stays valid when the weights are gone (`policy_row.py`).
Source: ours; the protocol of one hundred episodes is RMBench's.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loci.errors import LociError, did_you_mean
from loci.io.files import atomic_write
from loci.recipes.tabletop import POLICY_ROWS
from loci.study.estimates import DRAWS, LEVEL
from loci.study.estimates import SEED as BOOTSTRAP_SEED
from loci.study.tabletop import policy_results as tables
from loci.study.tabletop.baselines import BASELINES, baselines
from loci.study.tabletop.closed_loop import Loop, first_episode, summarise
from loci.study.tabletop.policy_row import (
    VERSION,
    PolicyRow,
    known,
    made_with,
    missing,
    played,
    told,
    trained,
)
from loci.training.numerics import matmul_precision, pick_device
from loci.worlds.tabletop.tasks import TASKS, make_task

NAME = "wam"
CASES = 100
# How many times as long as in training a fact must be held.
HOLDS = (1, 4)
# Of so many episodes of each row a film is kept, where the fact is held as long as in training.
FILMS = 4
# Episodes of the expert from which the baselines learn their answers.
ANSWERS = 200
CEILING = "oracle-state"


def run_policies(
    out: str | Path,
    rows: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    cases: int = CASES,
    seed: int = 0,
    finished: bool = False,
) -> dict[str, Any]:
    """Train and play rows (all, or those named) at tasks (likewise) in the folder `out`.

    cases: episodes of each row at each task and hold. seed: of the noise; the episodes' own seeds
    count up from 1000 * seed. finished: only of what is finished in `out`, some rows at some tasks;
    nothing is trained or played. Returns what results.json holds. Raises LociError for an unknown
    row or task, too few cases, seeds that demonstrations may have, and what cannot be written.
    """
    out, began = Path(out), time.monotonic()
    chosen = _choose("row", rows, list(POLICY_ROWS))
    at = _choose("task", tasks, list(TASKS))
    if cases < 1:
        raise LociError(f"{cases} cases show nothing; ask for 1 or more")
    first = first_episode(seed, cases)
    found: dict[str, Any] = {"success": {}, "baselines": {}, "differences": {}}
    entries: dict[str, dict[str, Any]] = {}
    wall: dict[str, Any] = {"milliseconds_per_act": {}, "training_minutes": {}}
    cells = dict.fromkeys(at, chosen)
    if finished:
        cells = {task: _finished(task, chosen, cases, seed, first, out) for task in at}
        if not any(cells.values()):
            raise LociError(f"nothing of that is finished in {out}; leave --finished out")
    for task in (task for task in at if cells[task]):
        found["baselines"][task] = {
            str(hold): _baselines(task, hold, cases, first, out) for hold in HOLDS
        }
        episodes: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for row in cells[task]:
            entry = trained(task, row, out)
            shown = entries.setdefault(task, {})[row] = _entry(entry)
            for hold in HOLDS:
                loop = _loop(entry, hold, seed, first)
                lines, made = played(entry, hold, loop, cases, out)
                episodes.setdefault(row, {})[str(hold)] = lines
                shown["played_with"][str(hold)] = made
            _wall(wall, entry)
        found["success"][task] = {
            row: {hold: summarise(lines) for hold, lines in by_hold.items()}
            for row, by_hold in episodes.items()
        }
        found["differences"][task] = tables.differences({
            row: {hold: [line["success"] for line in lines] for hold, lines in by_hold.items()}
            for row, by_hold in episodes.items()
        })
    shown = [row for row in chosen if any(row in rows_at for rows_at in cells.values())]
    protocol = _protocol(list(entries), shown, entries, cases, seed, first, finished)
    protocol["wall"] = {"seconds": round(time.monotonic() - began, 1), **wall}
    results = {"protocol": protocol, **found}
    atomic_write(out / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    # The report draws on matplotlib; an evaluation that is only read does not need it.
    from loci.report.policy_page import write_policy_report

    write_policy_report(out)
    return results


def _choose(what: str, names: Sequence[str] | None, known: list[str]) -> list[str]:
    if names is None:
        return known
    for name in names:
        if name not in known:
            raise LociError(f"study '{NAME}' has no {what} '{name}'{did_you_mean(name, known)}")
    if not names:
        raise LociError(f"no {what} is named; name some of {', '.join(known)}")
    return [name for name in known if name in names]


def _finished(
    task: str, rows: Sequence[str], cases: int, seed: int, first: int, out: Path
) -> list[str]:
    """Those of the rows that were trained at the task and have played all their episodes."""
    entries = {row: entry for row in rows if (entry := known(task, row, out))}
    return [
        row for row, entry in entries.items()
        if not any(missing(entry, hold, _loop(entry, hold, seed, first), cases, out)
                   for hold in HOLDS)
    ]


def _loop(found: PolicyRow, hold: int, seed: int, first: int) -> Loop:
    """How a row is played."""
    film = FILMS if hold == 1 else 0
    return Loop(cameras=found.run.data.camera_names, seed=seed, first=first, film=film)


def _baselines(task: str, hold: int, cases: int, first: int, out: Path) -> dict[str, Any]:
    """The baselines of a task over the study's episodes, as they were kept, or made now."""
    config = make_task(task, hold)
    what = [VERSION, config.to_dict(), told(config), cases, first, ANSWERS]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    file = out / "baselines" / f"{task}-hold{hold}.json"
    if file.exists():
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
            if there["key"] == key:
                return there["success"]
        except (ValueError, KeyError, TypeError) as error:
            raise LociError(f"{file} is damaged ({error}); delete it, it is made again") from error
    print(f"baselines of {task}, hold {hold}", file=sys.stderr, flush=True)
    made = baselines(config, cases, ANSWERS, first=first)
    success = {name: estimate.to_dict() for name, estimate in made.items()}
    atomic_write(file, json.dumps({"key": key, "success": success}, indent=1) + "\n")
    return success


def _entry(found: PolicyRow) -> dict[str, Any]:
    """What the protocol says of a row at a task."""
    note = found.note
    training = {k: v for k, v in note["training"].items() if k != "minutes"}
    return {
        "recipe": note["recipe"], "config": note["config"],
        "checkpoint_sha256": note["checkpoint"], "weights": note["weights"],
        "parameters": note["parameters"], "training": training,
        "held": {
            frames: {name: costs[name] for name in ("tokens", "bytes")}
            for frames, costs in note["cost"].items()
        },
        "played_with": {},
    }


def _wall(wall: dict[str, Any], found: PolicyRow) -> None:
    """Note what depends on the machine and its moods: kept apart from everything that does not."""
    note = found.note
    acts = {frames: costs["milliseconds"] for frames, costs in note["cost"].items()}
    wall["milliseconds_per_act"].setdefault(found.task, {})[found.row] = {
        **acts, "measured": note["cost_measured"],
    }
    minutes = note["training"].get("minutes")
    wall["training_minutes"].setdefault(found.task, {})[found.row] = minutes


def _protocol(
    tasks: Sequence[str], rows: Sequence[str], entries: dict[str, dict[str, Any]], cases: int,
    seed: int, first: int, finished: bool,
) -> dict[str, Any]:
    device = pick_device()
    with matmul_precision("exact", device) as precision:
        made = made_with(device, precision)
    command = f"loci study {NAME} --cases {cases} --seed {seed} --rows {','.join(rows)}"
    return {
        "study": NAME,
        "case_count": cases,
        "seed": seed,
        "first_seed": first,
        "holds": list(HOLDS),
        "tasks": {
            task: told(make_task(task))
            | {"chunks": {str(hold): make_task(task, hold).chunks for hold in HOLDS}}
            for task in tasks
        },
        "rows": {row: POLICY_ROWS[row].to_dict() for row in rows},
        "entries": entries,
        "floors": [name for name in BASELINES if name != CEILING],
        "ceilings": [CEILING],
        "answers_learnt_from": ANSWERS,
        "noise": "sha256 of (seed, 'act', episode, chunk); the same for every row",
        "interval": {
            "rates": "Wilson",
            "differences": "percentile bootstrap over pairs of the same episode (where all pairs "
            "agree: Wilson's bound on the share that does)",
            "level": LEVEL, "draws": DRAWS, "seed": BOOTSTRAP_SEED,
        },
        **made,
        "command": f"{command} --tasks {','.join(tasks)}" + " --finished" * finished,
    }
