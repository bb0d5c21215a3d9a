"""The tabletop's recipe with a transformer and demonstrations that a test can wait for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from loci.data.sources import LeRobotData
from loci.geometry import Camera
from loci.memory import Hybrid, Memory
from loci.models.action import ActionConfig
from loci.recipes.tabletop import tabletop
from loci.training.policy import PolicyRun, PolicyTask

CAMERA = Camera(height=32, width=48)
HORIZON = 8


def small(folder: Path, memory: Memory | None = None, **changes: Any) -> PolicyRun:
    """It predicts frames where they are learnt from. `changes`: to the run, its objective or its
    augmentation."""
    run = tabletop("put-back-block", memory or Hybrid(anchors=1, window=2, gists_per_frame=2))
    parts = {"objective": run.objective, "augmentation": replace(run.augmentation, lead_frames=0)}
    for name, part in parts.items():
        own = {key: changes.pop(key) for key in list(changes) if key in vars(part)}
        parts[name] = replace(part, **own)
    model = run.model
    dit = replace(model.world.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8,
                  patch=(1, 2, 2), out_channels=192 if vars(parts["objective"])["video"] else 0)
    world = replace(model.world, dit=dit, camera=CAMERA)
    expert = ActionConfig(dim=12, ffn_dim=16, text_dim=8, horizon=HORIZON)
    data = LeRobotData(folder=str(folder), cameras=("head",))
    settings = {"batch": 3, "draws": 2, "data": data, **parts, **changes}
    return replace(run, model=replace(model, world=world, expert=expert), **settings)


def task(config: PolicyRun) -> PolicyTask:
    """Its task, with a head that is not zero: that would hide its inputs."""
    torch.manual_seed(0)
    built = config.task()
    with torch.no_grad():
        built.model.expert.head.weight.add_(0.1)
    return built
