"""What the small set of rooms in Context-as-Memory's layout is that tests look at, and a run that
learns from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from loci.data.sources import ContextAsMemoryData
from loci.data.tiny_scenes import TinyScenes
from loci.memory import ROWS
from loci.recipes.rooms import rooms
from loci.training.world import WorldRun

TINY = TinyScenes(length=33, size=32)


def scene_run(folder: Path, **options: Any) -> WorldRun:
    """Two steps of a world model with few layers on episodes of nine pictures."""
    run = rooms(ROWS["context-5"])
    dit = replace(run.world.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8)
    settings = {"length": 9, "split": "all", **options}
    return replace(
        run, world=replace(run.world, dit=dit, chunk=2, steps=2, camera=TINY.camera),
        data=ContextAsMemoryData(folder=str(folder), **settings),
        batch=2, train=replace(run.train, steps=2, warmup=1, dtype="fp32"),
    )
