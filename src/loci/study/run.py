"""The engine: entries are found or trained, a suite is played, its results are written.

    results.json    the protocol, and every table
    training/       entries that were trained here, and what is known of them (`entry.py`)

What is finished is kept in the folder (`store.py`): a run that was stopped or killed goes on to the
same results.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loci.errors import LociError
from loci.io.files import atomic_write
from loci.io.json_files import read_json, to_json
from loci.io.output_folder import Kind, OutputFolder
from loci.io.progress import Progress
from loci.study.entry import Entry, Variant, find, train
from loci.study.provenance import made_with
from loci.study.store import Store
from loci.study.suite import Suite
from loci.training.numerics import matmul_precision, pick_device

RESULTS = "results.json"


@dataclass(frozen=True)
class Plan:
    """What will be made of a suite in a folder: entries that are there, by name, variants that are
    trained first, and about how many seconds all of it takes on two cores."""

    suite: Suite
    folder: OutputFolder
    entries: dict[str, Entry]
    untrained: list[Variant]
    seconds: float


def plan(
    suite: Suite, out: str | Path, from_scratch: bool = False, finished: bool = False,
    replace: bool = False,
) -> Plan:
    """What is to be made. Nothing is written.

    See `loci.study.studies.StudyOptions` for the options. Raises LociError for a folder that
    holds something else or that another process writes, results that would lose some, damaged
    files, and where a suite that trains nothing lacks an entry.
    """
    folder = OutputFolder.open(out, Kind.STUDY, {"study": suite.name}, _identity)
    store = Store(folder.path)
    if not (replace or finished):
        guard(suite, store.out)
    found = {variant: find(variant, store.out, from_scratch) for variant in suite.variants}
    entries = {variant.name: entry for variant, entry in found.items() if entry is not None}
    untrained = [variant for variant, entry in found.items() if entry is None and not finished]
    if untrained and not (suite.trains or from_scratch):
        raise LociError(
            f"no checkpoint ships for row '{untrained[0].name}'; train it with --from-scratch"
        )
    seconds = 60.0 * suite.minutes * len(untrained)
    if entries or finished:
        suite.admit(entries, store)
    seconds += suite.seconds(store)
    if finished and not replace:
        guard(suite, store.out)
    return Plan(suite, folder, entries, untrained, seconds)


def make(plan: Plan) -> dict[str, Any]:
    """Make what is missing; what results.json then holds."""
    suite, out, store = plan.suite, plan.folder.path, Store(plan.folder.path)
    with plan.folder.begin(), resumable(out):
        if plan.untrained:
            trained = {variant.name: train(variant, out) for variant in plan.untrained}
            entries = plan.entries | trained
            suite.admit({v.name: entries[v.name] for v in suite.variants}, store)
        return write(run(suite, store), out)


def write(results: dict[str, Any], out: Path) -> dict[str, Any]:
    """The results, written to the folder `out`."""
    atomic_write(out / RESULTS, to_json(results))
    return results


def run(suite: Suite, store: Store) -> dict[str, Any]:
    """Play a suite whose entries are there: its results, with the code and the machine behind
    them. Nothing but finished cases and `suite.files` is written."""
    began, device = time.monotonic(), pick_device()
    with matmul_precision("exact", device) as precision, suite.arithmetic(device):
        store.made = made_with(device, precision)
        scores: dict[str, dict[str, Any]] = {}
        with Progress(suite.name, suite.work) as progress:
            for condition in suite.conditions:
                scores[condition] = suite.play(condition, store, progress)
        results = suite.results(scores, store)
        protocol = store.made | results["protocol"]
    if "wall" in protocol:
        protocol["wall"] = {"seconds": round(time.monotonic() - began, 1), **protocol["wall"]}
    for name, data in suite.files(scores).items():
        atomic_write(store.out / name, to_json(data))
    return results | {"protocol": protocol}


def guard(suite: Suite, out: Path) -> None:
    """LociError where results of the study that lie in `out` would lose some."""
    protocol = _protocol(out)
    if protocol is None:
        return
    fix = "choose another folder, or give --replace"
    if protocol["seed"] != suite.seed:
        raise LociError(f"{out} holds results of seed {protocol['seed']}; {fix}")
    lost = [
        f"{what[:-1]} {name}" for what, names in (("rows", suite.asked), ("tasks", suite.tasks))
        for name in protocol.get(what, ()) if name not in names
    ]
    if protocol["case_count"] > suite.cases:
        lost.append(f"{protocol['case_count'] - suite.cases} of its cases")
    if lost:
        raise LociError(
            f"the results in {out} would lose {', '.join(lost)}: ask for them too (what is "
            f"finished is not made again), {fix}"
        )


def _protocol(out: Path) -> dict[str, Any] | None:
    """The protocol of the results that lie in `out`."""
    file = out / RESULTS
    return read_json(file, "delete it")["protocol"] if file.exists() else None


def _identity(out: Path) -> dict[str, Any] | None:
    """What an earlier version has made in `out`."""
    protocol = _protocol(out)
    return None if protocol is None else {"study": protocol["study"]}


@contextlib.contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Ctrl-C says that what is finished stays, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        said = str(stop) or "interrupted"
        raise KeyboardInterrupt(
            f"{said}; what is finished is kept in {out}, the same command goes on"
        ) from None
