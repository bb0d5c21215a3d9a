"""`loci train`: a recipe to a checkpoint, and a picture of what it came to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from loci.commands.options import maybe, named
from loci.errors import LociError

if TYPE_CHECKING:
    from loci.training.run import RunConfig

log = logging.getLogger(__name__)


def train(
    recipe: Positional[Annotated[str, named("RECIPE")]],
    /,
    *,
    out: Annotated[Path, named("DIR")],
    resume: bool = False,
    small: bool = False,
    steps: Annotated[int | None, maybe("N", "the recipe's")] = None,
    seed: Annotated[int | None, maybe("S", "the recipe's")] = None,
    threads: Annotated[int | None, maybe("N", "all cores")] = None,
    device: Annotated[Literal["cpu", "cuda"] | None, maybe("{cpu,cuda}", "cuda if usable")] = None,
) -> None:
    """Train a recipe to a checkpoint, DIR/model.safetensors.

    What is rendered first is kept, in ~/.cache/loci or where LOCI_CACHE says.

    Args:
        recipe: rooms-ROW, returns-ROW, TASK-ROW (a policy), rooms-codec, or
            path/to/file.py:function.
        out: Folder of the run: settings, log, state, checkpoint, and a picture to look at.
        resume: Continue the run that DIR holds, stopped or killed at any moment. On a CPU the
            weights come out the same, bit for bit. With more --steps, a finished run goes on.
        small: A first try, with less data and fewer steps: about three minutes on two cores for
            the rooms and for put-back-block.
        steps: Number of steps.
        seed: Seed of weights, data and noise.
        threads: On a CPU, each takes a part of the batch.
        device: Where to train.
    """
    from loci.recipes.registry import build_recipe
    from loci.training.run import run
    from loci.training.trainer import Stopped

    config = build_recipe(recipe, small, steps, seed)
    try:
        summary = run(config, out, resume, threads, device)
    except Stopped as stop:
        raise Stopped(f"{stop}; continue with --resume") from None
    print(
        f"{out}: {summary.steps} steps in {summary.minutes:.1f} min, loss {summary.loss:.4f}, "
        f"weights {summary.weights}"
    )
    show(config, out)
    if small:
        print(f"next: {_next(config, recipe, out)}")


def show(config: RunConfig, out: Path) -> None:
    """Write and name a picture of what the run came to. The training is done: a picture that cannot
    be made is only mentioned."""
    from loci.commands.sample import write_sample

    try:
        found = write_sample(config, out)
    except (LociError, ImportError) as error:
        log.warning("no picture of the result: %s", error)
        return
    if found is not None:
        file, words = found
        print(f"{file}: {words}")


def _next(config: RunConfig, recipe: str, out: Path) -> str:
    """What to do after a first try."""
    from loci.data.scenes import ScenesData
    from loci.data.sources import TabletopData
    from loci.training.policy import PolicyRun
    from loci.training.world import WorldRun

    lines = [f"loci train {recipe} --out {out}-whole   (the whole recipe)"]
    checkpoint = out / "model.safetensors"
    if isinstance(config, WorldRun) and isinstance(config.data, ScenesData):
        lines.append(f"loci eval scenes {out}")
    elif isinstance(config, WorldRun):
        lines.append(f"loci rollout {checkpoint} --path loop180 --out {out / 'loop180.mp4'}")
        lines.append(f"loci probe {checkpoint}   (what its memory holds)")
    if isinstance(config, PolicyRun) and isinstance(config.data, TabletopData):
        task = config.data.task
        lines.append(f"loci eval closed-loop {checkpoint} --task {task} --out {out}-play")
    return "\n      ".join(lines)
