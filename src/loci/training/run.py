"""From a recipe to a checkpoint: `loci train`.

A recipe is a Python function without arguments that returns a `RunConfig`: everything that the run
depends on. It is given by name, or as `path/to/file.py:function`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from loci.checkpoint import save_checkpoint
from loci.config import Config
from loci.errors import LociError, nearest
from loci.python_file import load_file
from loci.training.folder import RunFolder
from loci.training.loop import Summary, Task, TrainConfig, fit, keyed


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config, family=True):
    """What is trained and how. A subclass is one kind of run: it names itself (`name="..."`), its
    checkpoints (`kind`), adds its own settings and builds its task."""

    kind: ClassVar[str] = ""
    train: TrainConfig

    def task(self) -> Task:
        """The task, with fresh weights; torch's generator was seeded with the run's seed."""
        raise NotImplementedError(f"{type(self).__name__} must build its task: define task()")

    def finish(self, module: nn.Module, out: Path, summary: Summary) -> None:
        """Write what the run is for: the averaged weights in bf16, `out/model.safetensors`, with
        the module's own `config`."""
        config = getattr(module, "config", None)
        if not isinstance(config, Config):
            raise LociError(
                f"{type(module).__name__} has no `config` to travel with its weights; "
                f"give it one, or define {type(self).__name__}.finish()"
            )
        save_checkpoint(
            out / "model.safetensors", self.kind, config, module.state_dict(),
            dtype=torch.bfloat16, **summary.notes(), **self.notes(),
        )

    def notes(self) -> dict[str, object]:
        """What else the checkpoint says of its training."""
        return {}


Recipe = Callable[[], RunConfig]


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`, or the function of a file given as `path/to/file.py:function`.

    Raises LociError that names the nearest recipe, or what is wrong with the file.
    """
    from loci.training.recipes import recipes

    known = recipes()
    if name in known:
        return known[name]
    file, colon, function = name.rpartition(":")
    if file.endswith(".py") and colon:
        return _from_file(Path(file), function)
    if name.endswith(".py"):
        raise LociError(f"'{name}' names no function; give {name}:function")
    raise LociError(f"unknown recipe '{name}'{nearest(name, known)}, or give file.py:function")


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

    Raises what `loci.training.loop.train` raises.
    """
    config = find_recipe(name)()
    if not isinstance(config, RunConfig):
        raise LociError(f"recipe '{name}' returned a {type(config).__name__}; return a RunConfig")
    changes = {k: v for k, v in (("steps", steps), ("seed", seed)) if v is not None}
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))
    return run(config, out, resume, threads, device)


def run(
    config: RunConfig,
    out: str | Path,
    resume: bool = False,
    threads: int | None = None,
    device: str | None = None,
) -> Summary:
    """Train what `config` describes in the folder `out`, and let it write its result."""
    folder = RunFolder.open(out, config, resume)
    torch.manual_seed(keyed(config.train.seed, "weights"))
    task = config.task()
    summary = fit(task, config.train, folder, threads, device)
    config.finish(task.module, folder.path, summary)
    return summary


def _from_file(path: Path, function: str) -> Recipe:
    """A function that a Python file defines itself."""
    module = load_file(path, "recipe")
    own = {
        k: v for k, v in vars(module).items()
        if inspect.isfunction(v) and v.__module__ == module.__name__
    }
    if function not in own:
        raise LociError(f"{path} has no function '{function}'{nearest(function, own)}")
    return own[function]
