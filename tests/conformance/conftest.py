"""A tiny world model for every row of the registry, in every way a camera may enter."""

from __future__ import annotations

import pytest
import torch

from loci.flow import Flow
from loci.memory import ROWS
from loci.models.codecs import ImageCodecConfig
from loci.models.wan import WanConfig
from loci.models.world import WorldConfig, WorldModel
from loci.types import Camera

ROW_NAMES = sorted(ROWS)


def tiny_world(memory, camera: str = "rotary", chunk: int = 2, text_dim: int = 0) -> WorldModel:
    """Two layers, 4 tokens a frame; every weight random, so that no zero hides a mistake."""
    torch.manual_seed(0)
    codec = ImageCodecConfig()
    model = WorldModel(
        WorldConfig(
            memory=memory,
            dit=WanConfig(
                in_channels=codec.channels, out_channels=codec.channels, dim=32, ffn_dim=48,
                num_heads=2, num_layers=2, freq_dim=16, text_dim=text_dim, text_len=12,
                camera=camera,
            ),
            codec=codec,
            flow=Flow(),
            camera=Camera(height=32, width=32),
            chunk=chunk,
            steps=3,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def walk(batch: int, frames: int, seed: int = 0) -> torch.Tensor:
    """Camera poses (batch, frames, 4, 4) that turn and drift at random."""
    generator = torch.Generator().manual_seed(seed)
    yaw = torch.randn(batch, frames, generator=generator, dtype=torch.float64).cumsum(1) * 0.4
    poses = torch.eye(4, dtype=torch.float64).repeat(batch, frames, 1, 1)
    poses[..., 0, 0] = poses[..., 2, 2] = yaw.cos()
    poses[..., 0, 2], poses[..., 2, 0] = yaw.sin(), -yaw.sin()
    step = torch.randn(batch, frames, 3, generator=generator, dtype=torch.float64) * 0.1
    poses[..., :3, 3] = step.cumsum(1)
    return poses


@pytest.fixture(params=ROW_NAMES)
def row_name(request) -> str:
    return request.param


@pytest.fixture(params=["rotary", "inject"])
def model(row_name, request) -> WorldModel:
    return tiny_world(ROWS[row_name], request.param)
