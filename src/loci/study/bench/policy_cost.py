"""What a policy's memory costs: tokens and bytes held, milliseconds of an act. Source: ours."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from loci.models.world_action import WorldActionModel
from loci.study.bench.cost import in_turns

FRAMES = (25, 400)
REPEATS = 5
# Frames that are written together where nothing is timed.
BLOCK = 25


@torch.inference_mode()
def hold(model: WorldActionModel) -> dict[str, dict[str, Any]]:
    """{"25": {tokens, bytes, milliseconds}, "400": ...}: what one robot's memory holds after so
    many frames, and the median of five acts of the model's own steps then (after one to warm up).

    What was seen is noise: it makes no difference to the cost. The milliseconds depend on the
    machine, the rest does not.
    """
    policy, expert = model.policy(1), model.config.expert
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(1, expert.horizon, expert.actions, generator=draw).to(device)
    state = torch.zeros(1, expert.proprio, device=device)
    latents = torch.randn(1, BLOCK, *model.world.latent_shape, generator=draw).to(device)
    found = {}
    for frames in FRAMES:
        while (written := policy.lengths[0]) < frames:
            policy.observe_latents(latents[:, : frames - written], state)
        times = in_turns({"act": lambda: policy.act(noise)}, REPEATS, device)["act"]
        found[str(frames)] = {
            "tokens": int(policy.stream.tokens()), "bytes": int(policy.stream.bytes()),
            "milliseconds": round(statistics.median(times), 2),
        }
    return found
