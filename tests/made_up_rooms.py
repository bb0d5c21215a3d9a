"""Walks through rooms that nobody rendered: latents at random, for tests of training."""

from __future__ import annotations

import torch

from loci.data.base import Episodes, EpisodeSpec
from loci.data.sources import RoomsData
from tiny_world import walk


def load(data: RoomsData, spec: EpisodeSpec) -> Episodes:
    """In the place of `RoomsData.load`."""
    shape = spec.codec.latent_shape(spec.camera)
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(data.episodes, data.length, *shape, generator=draw)
    return Episodes(
        latents=latents.half(), poses=walk(data.episodes, data.length),
        frames=torch.full((data.episodes,), data.length), instructions=("",) * data.episodes,
    )
