"""A tiny world model whose codec is a video's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from loci.memory import ROWS
from loci.models.codecs import WanCodecConfig
from loci.models.wan import WanConfig
from loci.models.world import WorldModel
from tiny_world import tiny_world

SIDE = 32
TINY_VAE = {
    "base_dim": 4, "z_dim": 3, "dim_mult": (1, 2, 2, 2), "num_res_blocks": 1,
    "latents_mean": (0.1, -0.2, 0.3), "latents_std": (1.5, 0.5, 2.0),
}


@cache
def with_vae() -> WorldModel:
    """A tiny world model whose codec is a video's: four images a latent frame."""
    pytest.importorskip("diffusers")
    config = tiny_world(ROWS["hybrid"]).config
    dit: WanConfig = replace(config.dit, in_channels=3, out_channels=3)
    torch.manual_seed(0)
    return replace(config, dit=dit, codec=WanCodecConfig(**TINY_VAE)).build().eval()
