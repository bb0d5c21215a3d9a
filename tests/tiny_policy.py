"""A tiny world-action model of any memory, and episodes for it."""

from __future__ import annotations

import torch
from torch import Tensor

from loci.flow import Flow
from loci.geometry import Camera
from loci.memory import (
    TTT,
    ActionHistory,
    Compose,
    FullHistory,
    GatedDelta,
    Hybrid,
    Memory,
    NoMemory,
    SlidingWindow,
    Tower,
)
from loci.models.action import ActionConfig
from loci.models.codecs import ImageCodecConfig
from loci.models.wan import WanConfig
from loci.models.world import WorldConfig
from loci.models.world_action import WorldActionConfig, WorldActionModel
from loci.streaming.policy import Policy

# What the study of policies compares, and the rest that a policy can have.
MEMORIES: dict[str, Memory] = {
    "hybrid": Hybrid(anchors=2, window=2, gists_per_frame=3),
    "no-anchors": Hybrid(anchors=0, window=2, gists_per_frame=3),
    "no-gists": Hybrid(anchors=2, window=2, gists_per_frame=0),
    "no-window": Hybrid(anchors=2, window=1, gists_per_frame=3),
    "full": FullHistory(),
    "window": SlidingWindow(window=2),
    "rnn": GatedDelta(window=2),
    "ttt": TTT(window=2),
    "ttt-muon": TTT(window=2, momentum=0.9, muon=True),
    "tower": Tower(anchors=1, window=1, gists_per_frame=2, branching=3),
    "none": NoMemory(),
    "hybrid-acts": Compose(members=(
        Hybrid(anchors=2, window=2, gists_per_frame=3), ActionHistory()
    )),
    "full-acts": Compose(members=(FullHistory(), ActionHistory())),
    "window-acts": Compose(members=(SlidingWindow(window=2), ActionHistory())),
    "tower-acts": Compose(members=(
        Tower(anchors=1, window=1, gists_per_frame=2, branching=3), ActionHistory()
    )),
    "hybrid-rnn": Compose(members=(
        Hybrid(anchors=1, window=2, gists_per_frame=2), GatedDelta(window=1)
    )),
    "rnn-ttt-acts": Compose(members=(GatedDelta(window=2), TTT(window=1), ActionHistory())),
    "ttt-acts": Compose(members=(TTT(window=2), ActionHistory())),
}
HORIZON, ACTIONS, PROPRIO, TEXT = 4, 5, 6, 8


def tiny_policy(memory: Memory, text: bool = False, layers: int = 2) -> WorldActionModel:
    """Few layers, 4 tokens a frame; every weight random, so that no zero hides a mistake."""
    torch.manual_seed(0)
    codec = ImageCodecConfig()
    model = WorldActionModel(
        WorldActionConfig(
            world=WorldConfig(
                memory=memory,
                dit=WanConfig(
                    in_channels=codec.channels, out_channels=codec.channels, dim=32, ffn_dim=48,
                    num_heads=2, num_layers=layers, freq_dim=16, text_dim=TEXT if text else 0,
                    text_len=12,
                ),
                codec=codec, flow=Flow(), camera=Camera(height=32, width=32), chunk=1, steps=3,
            ),
            expert=ActionConfig(
                dim=24, ffn_dim=40, actions=ACTIONS, proprio=PROPRIO, horizon=HORIZON,
                text_dim=TEXT,
            ),
            steps=3,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.actions.scale.copy_(torch.linspace(0.5, 2, ACTIONS))
        model.proprio.middle.copy_(torch.linspace(-1, 1, PROPRIO))
    return model.eval()


def episodes(
    model: WorldActionModel, frames: int, batch: int = 2, seed: int = 1
) -> dict[str, Tensor]:
    """Latents (B, T, C, h, w), noisy actions (B, T, n, A), their times, states, noisy frames, and
    normalised actions that were carried out (B, T, n, A)."""
    draw = torch.Generator().manual_seed(seed)
    shape = model.world.latent_shape
    return {
        "latents": torch.randn(batch, frames, *shape, generator=draw),
        "actions": torch.randn(batch, frames, HORIZON, ACTIONS, generator=draw),
        "time": torch.rand(batch, frames, generator=draw),
        "proprio": torch.randn(batch, frames, PROPRIO, generator=draw),
        "noisy": torch.randn(batch, frames - 1, *shape, generator=draw),
        "noisy_time": torch.rand(batch, frames - 1, generator=draw),
        "executed": torch.randn(batch, frames, HORIZON, ACTIONS, generator=draw),
    }


def watch(policy: Policy, data: dict[str, Tensor], frames: range) -> Policy:
    """Show a policy some frames of an episode, one by one, with what was done between them."""
    for t in frames:
        done = policy.model.actions.inverse(data["executed"][:, t - 1]) if t else None
        policy.observe_latents(data["latents"][:, t : t + 1], data["proprio"][:, t], done)
    return policy


def instructions(batch: int = 2) -> Tensor:
    """Text embeddings (B, 7, width)."""
    return torch.randn(batch, 7, TEXT, generator=torch.Generator().manual_seed(3))
