"""Weights at random: what every model starts with, and what no checkpoint has stays with."""

from __future__ import annotations

import torch
from torch import nn

from loci.attention.rotary import ALIGNED
from loci.models.world import WorldModel
from loci.models.world_action import WorldActionModel

# How sharply heads start out looking along their own ray; see `initialise_world`.
SHARPNESS = 1.3


def initialise_world(model: WorldModel) -> None:
    """Xavier for matrices, zeros for biases and for the head: the first prediction is zero.

    Camera injection keeps its own zeros (Echo-Memory). With rotary cameras every head starts out
    looking where its own ray points: a constant in the first channel of each pair of queries and
    keys makes the score a sum of cosines of the angle between two tokens, largest for those that
    look at the same place. Training then refines what would take it long to find (ours).
    """
    xavier(model.dit)
    model.dit.open_ports()
    if model.dit.head is not None:
        nn.init.zeros_(model.dit.head.head.weight)
    if model.config.dit.camera == "rotary":
        for block in model.dit.blocks:
            for layer in (block.self_attn.q, block.self_attn.k):
                with torch.no_grad():
                    layer.bias[0::2] = ALIGNED
            nn.init.constant_(block.self_attn.norm_q.weight, SHARPNESS)


def initialise_policy(model: WorldActionModel) -> None:
    """The same for the world model, and for the expert, whose first prediction is zero too."""
    initialise_world(model.world)
    xavier(model.expert)
    nn.init.zeros_(model.expert.head.weight)


def xavier(trunk: nn.Module) -> None:
    """Xavier for the matrices of its linear layers, zeros for their biases."""
    for name, layer in trunk.named_modules():
        if isinstance(layer, nn.Linear) and ".camera." not in name:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
