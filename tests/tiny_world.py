"""A tiny world model of any memory row, and camera walks for it."""

from __future__ import annotations

import torch
from torch import Tensor

from loci.flow import Flow
from loci.geometry import Camera
from loci.memory import (
    ROWS,
    BlockSSM,
    Compose,
    Context,
    GatedDelta,
    Hybrid,
    Joint,
    Memory,
    Mixture,
    Pooled,
    SpatialGrid,
    Tower,
)
from loci.models.codecs import ImageCodecConfig
from loci.models.wan import WanConfig
from loci.models.world import WorldConfig, WorldModel
from loci.streaming.session import Session
from recollecting import Recollecting

# Compositions beside the rows that ship: every way to remember with every other.
COMPOSED: dict[str, Memory] = {
    "gists+state": Compose(members=(Hybrid(), GatedDelta())),
    "tower+ssm": Compose(members=(Tower(gists_per_frame=2, branching=3), BlockSSM(every=1))),
    "joint+gists": Compose(members=(Joint(frames=3), Hybrid())),
    "joint+context": Compose(members=(Joint(frames=2), Context(frames=3))),
    "mixture+delta": Compose(members=(Mixture(frames=4, top=2), GatedDelta())),
    "two-states": Compose(members=(
        GatedDelta(), Compose(members=(BlockSSM(), BlockSSM(residual="scale")))
    )),
    # Stores of their own, and every port of the video transformer.
    "channels": Recollecting(ways=("channels",)),
    "branch": Recollecting(ways=("render",)),
    "tokens": Recollecting(ways=("tokens",)),
    "all ports+gists+state": Compose(members=(Recollecting(), Hybrid(), GatedDelta())),
    "ports+joint": Compose(members=(Recollecting(), Mixture(frames=4, top=2))),
    # As Echo-Memory released them: joint frames are summed up, and a state begins anew.
    "pooled+restarted": Compose(members=(
        Pooled(order="anchor", timestep="chunk", grid=2, tokens=6, readout="cross"),
        BlockSSM(every=1, context=0, hint=0, carried=False),
    )),
    # Its last block has no state, and runs without the frames beside.
    "joint+restarted": Compose(members=(
        Joint(frames=3), BlockSSM(every=2, context=0, hint=0, carried=False),
    )),
    "spatial+ssm": Compose(members=(SpatialGrid(readout="concat"), BlockSSM(every=1))),
}
# Memories that ask for depth are tested where there is some: `box_walks.py`.
MEMORIES = {name: row for name, row in {**ROWS, **COMPOSED}.items() if not row.wants}
ROW_NAMES = sorted(MEMORIES)
# Rotary angles of zero, for any tokens.
STILL = torch.ones(1, 1, 1, dtype=torch.complex64)


def tiny_world(
    memory: Memory, camera: str = "rotary", chunk: int = 2, text_dim: int = 0, layers: int = 2
) -> WorldModel:
    """Few layers, 4 tokens a frame; every weight random, so that no zero hides a mistake."""
    torch.manual_seed(0)
    codec = ImageCodecConfig()
    model = WorldModel(
        WorldConfig(
            memory=memory,
            dit=WanConfig(
                in_channels=codec.channels, out_channels=codec.channels, dim=32, ffn_dim=48,
                num_heads=2, num_layers=layers, freq_dim=16, text_dim=text_dim, text_len=12,
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


def data(model: WorldModel, frames: int = 12, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Latents and poses of random walks."""
    torch.manual_seed(7)
    return torch.randn(batch, frames, *model.latent_shape), walk(batch, frames)


def started(
    name: str = "hybrid", frames: int = 5, batch: int = 2, **options
) -> tuple[Session, Tensor, Tensor]:
    """A session of a row that has seen `frames` frames, and the data that it goes on with."""
    model = tiny_world(MEMORIES[name])
    latents, poses = data(model, batch=batch)
    session = model.session(batch, **options)
    session.write(latents[:, :frames], poses[:, :frames])
    return session, latents, poses


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two snapshots are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
