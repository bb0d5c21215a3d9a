"""Everything of Loci that the golden tests use, in one place.

Where the package is renamed, this file follows; no other file of this folder imports from it. What
the tests compare is what a user sees: hashes, the files and the tables that commands make.
"""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from safetensors import safe_open

from loci.commands.main import main
from loci.data.sources import LeRobotData
from loci.geometry import Camera
from loci.io import bundled
from loci.io.checkpoint import digest, load_checkpoint
from loci.models.action import ActionConfig
from loci.models.codecs import CodecConfig
from loci.models.embodiment import Embodiment, RobotCamera
from loci.models.world import WorldModel
from loci.models.world_action import WorldActionModel
from loci.recipes.registry import recipes
from loci.recipes.tabletop import tabletop

# What tests replace: the maker of the policies' recipes, what they are played in, how many episodes
# answers are learnt from, the choice of a dtype, which depends on the CPU, what a study of worlds
# begins with when a score is missing, and its report, where that takes longer than it tells.
RECIPE = "loci.recipes.registry.tabletop"
TABLETOP = "loci.study.tabletop.episodes.Tabletop"
ANSWERS = "loci.study.tabletop.suite.ANSWERS"
BENCH_DTYPE = "loci.study.bench.policies.pick_dtype"
MAKERS = ("loci.study.rooms.suite.prepare", "loci.study.rooms.suite.Probe")
REPORT = "loci.commands.study.write_report"


def command(*arguments: object, columns: int = 160) -> str:
    """Run `loci` with these arguments, on the CPU; what it prints on a terminal this wide."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": str(columns), "LOCI_DEBUG": "1"}),
        mock.patch("torch.cuda.is_available", return_value=False),
        contextlib.redirect_stdout(printed),
    ):
        main([str(argument) for argument in arguments])
    return printed.getvalue()


def runs() -> dict[str, Any]:
    """Every recipe's run by name."""
    return {name: recipe() for name, recipe in recipes().items()}


def run_hash(run: Any) -> str:
    return run.hash()


def codec_hash(run: Any) -> str | None:
    """Of a run that trains a codec; others name theirs by a digest."""
    return run.codec.hash() if hasattr(getattr(run, "codec", None), "hash") else None


def policy_hash(run: Any) -> str | None:
    """Of a run that trains a policy: that of its whole model."""
    return run.model.hash() if hasattr(run, "model") else None


def world_hash(run: Any) -> str | None:
    """Of a run that trains a world model, or a policy with one inside."""
    world = run.model.world if hasattr(run, "model") else getattr(run, "world", None)
    return None if world is None else world.hash()


def shipped() -> list[str]:
    """The names of the checkpoints that ship."""
    return bundled.bundled_names()


def checkpoint_kind(name: str) -> str:
    """What the file says that it holds."""
    with safe_open(bundled.bundled(name), framework="pt") as file:
        return (file.metadata() or {})["kind"]


def checkpoint_digests(name: str) -> tuple[str, str]:
    """(noted in the file, computed from the tensors that were read)."""
    found = load_checkpoint(name, checkpoint_kind(name))
    return found.metadata["digest"], digest(found.tensors)


def checkpoint_config(name: str) -> Any:
    """The configuration of the model that the file becomes when it is loaded."""
    kind = checkpoint_kind(name)
    if kind == "codec":
        return CodecConfig.from_dict(load_checkpoint(name, kind).config)
    model = {"world-model": WorldModel, "world-action-model": WorldActionModel}[kind]
    return model.load(name).config


def checkpoint_world(config: Any) -> Any:
    """The world model's configuration inside a policy's, or None."""
    return getattr(config, "world", None)


def tiny_recipe(dataset: Path, task: str, memory: Any) -> Any:
    """A policy's recipe that takes a second: a narrow model, two steps in fp32 on `dataset`."""
    run = tabletop(task, memory)
    dit = replace(
        run.model.world.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8,
        patch=(1, 2, 2),
    )
    world = replace(run.model.world, dit=dit, camera=Camera(height=32, width=48))
    expert = ActionConfig(dim=12, ffn_dim=16, text_dim=8, horizon=8)
    return replace(
        run,
        # The data's robot has pictures of another shape than the table's, and another rate.
        model=replace(
            run.model, world=world, steps=2, expert=expert,
            embodiment=Embodiment(cameras=(RobotCamera(name="head"),)),
        ),
        data=LeRobotData(folder=str(dataset), cameras=("head",)),
        train=replace(run.train, steps=2, warmup=1, log_every=1, dtype="fp32"),
        batch=2,
    )
