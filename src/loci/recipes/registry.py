"""The recipes: functions that return the whole configuration of a run, by name.

    loci train rooms-codec --out runs/codec        the small codec of the rooms
    loci train rooms-hybrid --out runs/hybrid      one memory row, and so for every other row

    loci train returns-hybrid --out runs/hybrid    the same with the return loss

    loci train cover-blocks-hybrid --out runs/cover    a policy for a task of the tabletop

The rows share one function and differ in one line, their memory. A recipe of your own is a
function like these in any file: `loci train my_recipes.py:my_recipe --out DIR`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path

from loci.errors import LociError, did_you_mean
from loci.flow import Flow
from loci.geometry import Camera
from loci.io.user_code import load_file
from loci.memory import ROWS, Memory
from loci.models.world import WorldConfig
from loci.recipes.tabletop import POLICY_ROWS, tabletop
from loci.training.codec import image_codec
from loci.training.objectives import returning
from loci.training.run import RunConfig, run
from loci.training.trainer import Summary, TrainConfig
from loci.training.world import WorldRun, shipped_codec_config, small_transformer
from loci.worlds.tabletop.tasks import TASKS

AGAIN = "returns-"  # before a row's name: its recipe with the return loss


def rooms(memory: Memory) -> WorldRun:
    """The study's recipe: a world model of the rooms with the given memory."""
    codec, digest = shipped_codec_config()
    return WorldRun(
        world=WorldConfig(
            memory=memory,
            dit=small_transformer(codec.channels),
            codec=codec,
            flow=Flow(shift=3.0, prediction="x", weighting="uniform"),
            camera=Camera(),
            chunk=4,
            steps=10,
        ),
        codec=digest,
        clean_noise=0.1,
        train=TrainConfig(
            steps=1000, lr=3e-3, muon=0.02, warmup=50, final=0.02, betas=(0.9, 0.95), ema=0.995,
        ),
    )


def _returning(memory: Memory) -> WorldRun:
    return returning(rooms(memory))


def recipes() -> dict[str, Callable[[], RunConfig]]:
    """All recipes by name: the codec's, two for each memory row that is known by now, and one for
    each task of the tabletop and row of the study of policies."""
    rows = {f"rooms-{name}": partial(rooms, memory) for name, memory in ROWS.items()}
    again = {f"{AGAIN}{name}": partial(_returning, memory) for name, memory in ROWS.items()}
    policies = {
        f"{task}-{name}": partial(tabletop, task, memory)
        for task in TASKS for name, memory in POLICY_ROWS.items()
    }
    return {"rooms-codec": image_codec, **rows, **again, **policies}


Recipe = Callable[[], RunConfig]


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`, or the function of a file given as `path/to/file.py:function`.

    Raises LociError that names the nearest recipe, or what is wrong with the file.
    """
    known = recipes()
    if name in known:
        return known[name]
    file, colon, function = name.rpartition(":")
    if file.endswith(".py") and colon:
        return _from_file(Path(file), function)
    if name.endswith(".py"):
        raise LociError(f"'{name}' names no function; give {name}:function")
    raise LociError(f"unknown recipe '{name}'{did_you_mean(name, known)}, or give file.py:function")


def run_recipe(
    name: str,
    out: str | Path,
    resume: bool = False,
    steps: int | None = None,
    seed: int | None = None,
    threads: int | None = None,
    device: str | None = None,
) -> Summary:
    """Train a recipe in the folder `out`, to its checkpoint. `steps` and `seed` replace its own.

    Raises what `loci.training.trainer.train` raises.
    """
    config = find_recipe(name)()
    if not isinstance(config, RunConfig):
        raise LociError(f"recipe '{name}' returned a {type(config).__name__}; return a RunConfig")
    changes = {k: v for k, v in (("steps", steps), ("seed", seed)) if v is not None}
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))
    return run(config, out, resume, threads, device)


def _from_file(path: Path, function: str) -> Recipe:
    """A function that a Python file defines itself."""
    module = load_file(path, "recipe")
    own = {
        k: v for k, v in vars(module).items()
        if inspect.isfunction(v) and v.__module__ == module.__name__
    }
    if function not in own:
        raise LociError(f"{path} has no function '{function}'{did_you_mean(function, own)}")
    return own[function]
