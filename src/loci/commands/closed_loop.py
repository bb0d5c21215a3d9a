"""`loci eval closed-loop`: one policy at one task of the tabletop."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from loci.errors import LociError
from loci.io.bundled import resolve_checkpoint
from loci.io.checkpoint import commit, load_checkpoint
from loci.io.progress import Progress
from loci.models.world_action import KIND, WorldActionModel
from loci.study.tabletop.closed_loop import Loop, first_episode, run_closed_loop
from loci.training.numerics import device_name, matmul_precision, pick_device, reproducible
from loci.worlds.tabletop.env import ACTION, Tabletop
from loci.worlds.tabletop.tasks import make_task
from loci.worlds.tabletop.view import CAMERAS


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
) -> dict[str, Any]:
    """Play `episodes` episodes of a task with a checkpoint, in the folder `out`.

    seed: of the noise; the episodes' own seeds count up from seed * 1000. hold: how many times as
    long the fact must be held. steps, temperature: of an act (None: the model's). Returns what
    `run_closed_loop` does. Raises LociError for a bad checkpoint, an unknown task, a model that
    does not fit the table, seeds that demonstrations may have, steps or a temperature that no model
    can have, and a folder that holds another run.
    """
    first = first_episode(seed, episodes)
    path, device = resolve_checkpoint(checkpoint), pick_device()
    name = path.parent.name if path.stem == "model" else path.stem
    model = WorldActionModel.load(path).to(device)
    expert = model.config.expert
    if (expert.actions, expert.proprio) != (ACTION, ACTION):
        raise LociError(
            f"{path.name} acts with {expert.actions} numbers and feels {expert.proprio}; the "
            f"tabletop has {ACTION} of both"
        )
    chosen = make_task(task, hold)
    # Earlier checkpoints say nothing of their cameras: they were the tabletop's, in this order.
    cameras = load_checkpoint(path, KIND).metadata["training"].get("cameras", CAMERAS)
    given = {"steps": steps, "temperature": temperature}
    acts = dataclasses.replace(
        model.config, **{name: value for name, value in given.items() if value is not None}
    )
    loop = Loop(
        cameras=tuple(cameras), seed=seed, first=first, steps=acts.steps,
        temperature=acts.temperature, film=films,
    )
    with matmul_precision("exact", device) as precision, reproducible(device):
        protocol = {
            "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "config": model.config.hash(), "memory": model.config.world.memory.to_dict(),
            "task": chosen.to_dict(), "first_seed": first,
            "loop": dataclasses.asdict(loop) | {"cameras": list(loop.cameras)},
            "noise": "sha256 of (seed, 'act', episode, chunk); the same for every row",
            "interval": "95 % Wilson", "dtype": "float32", "matmul": precision,
            "device": device_name(device), "commit": commit(),
        }
        with Progress(f"{name} at {task}", episodes) as progress:

            def report(done: int, _: int, hits: int) -> None:
                progress.advance(done - progress.done, f"{hits} of {done} succeeded")

            return run_closed_loop(
                model, lambda: Tabletop(chosen), loop, episodes, out, protocol, report
            )


def table(found: dict[str, Any]) -> Table:
    """The results of a policy, for a console."""
    task = found["protocol"]["task"]
    shown = Table(
        title=f"{task['type']}, fact held {task['hold']} times, {found['episodes']} episodes",
        title_justify="left", box=SIMPLE_HEAD,
    )
    for heading in ("", "of all, % [95 %]", "of those that came so far, %"):
        shown.add_column(heading, no_wrap=True)
    for name, rates in found["stages"].items():
        shown.add_row(name, rate(rates["all"]), rate(rates["given"]))
    shown.add_row("success", rate(found["success"]), "", style="bold")
    for kind, count in found["failures"].items():
        shown.add_row(f"failed: {kind or 'at the limit'}", f"{count}", "", style="dim")
    return shown


def rate(found: dict[str, Any]) -> str:
    """A rate in percent, with its interval and its numbers."""
    if not found["of"]:
        return "none"
    share, low, high = (100 * found[key] for key in ("rate", "lo", "hi"))
    return f"{share:.0f} [{low:.0f}, {high:.0f}] ({found['hits']}/{found['of']})"
