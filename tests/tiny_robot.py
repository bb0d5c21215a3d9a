"""A tiny policy for the tabletop's robot, which does nothing sensible there."""

from __future__ import annotations

from dataclasses import replace

import torch

from loci.geometry import Camera
from loci.memory import Memory
from loci.models.world_action import WorldActionModel
from loci.worlds.tabletop.embodiment import embodiment
from loci.worlds.tabletop.env import ACTION
from loci.worlds.tabletop.table import CHUNK
from loci.worlds.tabletop.tasks import make_task
from tiny_policy import tiny_policy


def tiny_robot(memory: Memory, task: str = "put-back-block") -> WorldActionModel:
    """Every weight random; it says that it was trained for a task."""
    config = tiny_policy(memory).config
    torch.manual_seed(1)
    model = WorldActionModel(replace(
        config,
        world=replace(config.world, camera=Camera(height=48, width=32)),
        expert=replace(config.expert, actions=ACTION, proprio=ACTION, horizon=CHUNK),
        embodiment=embodiment(instructions=make_task(task).instructions),
    ))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()
