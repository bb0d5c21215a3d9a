"""Walks through rooms that nobody rendered: latents, pictures and depth at random, for tests of
training."""

from __future__ import annotations

import torch

from loci.data.base import Episodes, EpisodeSpec
from loci.data.sources import RoomsData
from loci.geometry import relative_to
from loci.geometry.depth import intrinsics_of
from loci.memory.frames import Frames
from tiny_world import walk


def load(data: RoomsData, spec: EpisodeSpec) -> Episodes:
    """In the place of `RoomsData.load`."""
    shape = spec.codec.latent_shape(spec.camera)
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(data.episodes, data.length, *shape, generator=draw)
    poses, surveyed = walk(data.episodes, data.length), {}
    if spec.surveyor is not None:
        camera, size = spec.camera, (data.episodes, data.length)
        image = torch.randint(256, (*size, camera.height, camera.width, 3), generator=draw)
        surveyed = spec.surveyor.survey(Frames(
            latents, relative_to(poses[:, 0], poses), torch.zeros(size),
            torch.rand(image.shape[:-1], generator=draw) + 1,
            intrinsics_of(camera).expand(*size, 3, 3), image.byte(),
        ))
    return Episodes(
        latents=latents.half(), poses=poses, surveyed=surveyed,
        frames=torch.full((data.episodes,), data.length), instructions=("",) * data.episodes,
    )
