"""`loci eval closed-loop`: one policy at one task of the tabletop."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loci.errors import LociError
from loci.io.hub import locate
from loci.io.json_files import read_lines
from loci.io.output_folder import Kind, OutputFolder
from loci.io.progress import Progress
from loci.models.world_action import KIND
from loci.study.entry import given
from loci.study.estimates import percent
from loci.study.run import resumable, run, write
from loci.study.store import LOG, Record, Store
from loci.study.suite import Scores, Suite
from loci.study.tables import Grid, Line
from loci.study.tabletop.closed_loop import Loop
from loci.study.tabletop.episodes import Episodes, cameras_of, fits
from loci.study.tabletop.results import summarise
from loci.study.tabletop.suite import NOISE
from loci.worlds.tabletop.demonstration import first_episode
from loci.worlds.tabletop.tasks import make_task

# What of a protocol makes a run the same.
IDENTITY = (
    "checkpoint_sha256", "config", "memory", "task", "first_seed", "loop", "noise", "interval"
)


class ClosedLoop(Suite):
    """The episodes of one policy at one task."""

    conditions = ("closed loop",)

    def __init__(self, episodes: Episodes):
        self.episodes = episodes
        self.name = f"{episodes.entry.name} at {episodes.task.type_name}"

    @property
    def work(self) -> int:
        return self.episodes.cases

    def play(self, condition: str, store: Store, progress: Progress) -> dict[str, list[Record]]:
        return {self.episodes.entry.name: self.episodes.played(store, progress)}

    def results(self, scores: Scores, store: Store) -> dict[str, Any]:
        (lines,) = scores[self.conditions[0]].values()
        return {"protocol": dict(self.episodes.key), **summarise(lines)}


def closed_loop(
    checkpoint: str | Path,
    task: str,
    out: str | Path,
    episodes: int = 100,
    seed: int = 0,
    hold: int = 1,
    steps: int | None = None,
    films: int = 0,
    temperature: float | None = None,
    instruction: str | None = None,
) -> dict[str, Any]:
    """Play `episodes` episodes of a task with a checkpoint, in the folder `out`.

    seed: of the noise; the episodes' own seeds count up from seed * 1000. hold: how many times as
    long the cue must be held. steps, temperature: of an act (None: the model's). films: how many
    episodes are filmed. instruction: what the policy is told, instead of what each episode asks
    for. Returns what `summarise` does, with the protocol. Raises LociError, with
    nothing written, for a bad checkpoint, an unknown task, a model that does not fit the table,
    seeds that demonstrations may have, settings that no model can have, and a folder that holds
    another run or more episodes.
    """
    first, path = first_episode(seed, episodes), locate(checkpoint).path
    if films < 0:
        raise LociError(f"{films} films; give --films 0 or more")
    chosen = make_task(task, hold)
    entry = given(path.parent.name if path.stem == "model" else path.stem, path, KIND)
    fits(entry.name, entry.config)
    if instruction is not None and entry.config.text is None:
        raise LociError(
            f"{entry.name} reads no instructions (its model.text is None); leave --instruction out"
        )
    settings = {"steps": steps, "temperature": temperature}
    acts = dataclasses.replace(
        entry.config, **{name: value for name, value in settings.items() if value is not None}
    )
    loop = Loop(
        seed=seed, first=first, steps=acts.steps,
        temperature=acts.temperature, film=films, instruction=instruction,
    )
    played = dataclasses.asdict(loop)
    if instruction is None:
        del played["instruction"]  # as earlier versions have it
    key = {
        "checkpoint_sha256": entry.note["checkpoint"], "config": entry.note["config"],
        "memory": entry.config.world.memory.to_dict(), "task": chosen.to_dict(),
        "first_seed": first,
        "loop": {**played, "cameras": cameras_of(entry)},
        "noise": NOISE, "interval": "95 % Wilson",
    }
    run_key, store = _identity(key), Store(out)
    folder = OutputFolder.open(
        out, Kind.EVALUATION, run_key,
        lambda path: next((_identity(line) for line in read_lines(path / LOG)), None),
    )
    asked = Episodes(
        entry, chosen, loop, episodes, "", run_key, lambda first: _identity(first) == run_key
    )
    there = len(asked.log(store).lines)
    if there > episodes:
        raise LociError(
            f"{out} holds {there} episodes of this run, and {episodes} are asked for; give "
            f"--episodes {there} or more, or another folder"
        )
    told = entry.config.embodiment.instructions
    if told and not set(told) & set(chosen.instructions):
        warnings.warn(
            f"{entry.name} was trained for other tasks than {task} ('{told[0]}'): it will hardly "
            "succeed", stacklevel=2,
        )
    with folder.begin(), resumable(store.out):
        results = run(ClosedLoop(asked), store)
        results["protocol"] |= key
        return write(results, store.out)


def _identity(first: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run the same, of a protocol or of the first line of a log: how many are filmed
    or played together does not matter, nor do the commit and the machine that earlier logs name."""
    loop = {k: v for k, v in first.get("loop", {}).items() if k not in ("film", "together")}
    return json.loads(json.dumps({name: first.get(name) for name in IDENTITY} | {"loop": loop}))


def table(results: Mapping[str, Any]) -> Grid:
    """One policy at one task."""

    def counted(found: Mapping[str, Any]) -> str:
        return f"{percent(found)} ({found['hits']}/{found['of']})" if found["of"] else "none"

    task = results["protocol"]["task"]
    lines = [
        Line(name, [counted(rates["all"]), counted(rates["given"])])
        for name, rates in results["stages"].items()
    ]
    lines.append(Line("success", [counted(results["success"]), ""], "head"))
    lines += [
        Line(f"failed: {kind or 'at the limit'}", [str(count), ""], "floor")
        for kind, count in results["failures"].items()
    ]
    return Grid(
        f"{task['type']}, cue held {task['hold']} times, {results['episodes']} episodes",
        ["", "of all, % [95 %]", "of those that came so far, %"], lines, narrow=True,
    )
