"""What a policy carries besides its stream: the encoder's state, and nothing that goes stale."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from loci.errors import LociError
from loci.models.codecs.wan import WanCodecConfig
from loci.models.world_action import WorldActionModel
from tiny_policy import ACTIONS, HORIZON, MEMORIES, PROPRIO, episodes, tiny_policy, watch
from tiny_world import same

NOISE = torch.randn(2, HORIZON, ACTIONS, generator=torch.Generator().manual_seed(5))
STATE = torch.zeros(1, PROPRIO)
VIDEO = torch.randint(
    255, (1, 9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(6)
)


def joining() -> WorldActionModel:
    """A policy whose codec joins four images, from what its encoder carries."""
    pytest.importorskip("diffusers")
    config = tiny_policy(MEMORIES["window"]).config
    codec = WanCodecConfig(
        base_dim=4, z_dim=3, dim_mult=(1, 2, 2, 2), num_res_blocks=1,
        latents_mean=(0.1, -0.2, 0.3), latents_std=(1.5, 0.5, 2.0),
    )
    dit = replace(config.world.dit, in_channels=3, out_channels=0)
    torch.manual_seed(0)
    return WorldActionModel(replace(config, world=replace(config.world, codec=codec, dit=dit)))


@pytest.mark.parametrize("restored", [False, True])
def test_an_encoder_does_not_go_on_from_latents_that_it_did_not_make(restored: bool) -> None:
    """It would begin anew in the middle of an episode, and be off for ever."""
    model = joining().eval()
    latents = model.world.codec.encode(VIDEO)
    policy = model.policy(1)
    policy.observe_latents(latents[:, :1], STATE)
    if restored:
        policy = model.policy(1).restore(policy.snapshot())
    before = policy.snapshot()
    with pytest.raises(LociError, match="latents that were encoded elsewhere"):
        policy.observe(VIDEO[:, 1:5], STATE)
    assert same(policy.snapshot(), before)
    policy.observe_latents(latents[:, 1:2], STATE)


def test_an_encoder_goes_on_after_a_snapshot() -> None:
    model = joining().eval()
    whole, cut = model.policy(1), model.policy(1)
    for policy in (whole, cut):
        policy.observe(VIDEO[:, :1], STATE)
        policy.observe(VIDEO[:, 1:5], STATE)
    again = model.policy(1).restore(cut.snapshot())
    for policy in (whole, again):
        policy.observe(VIDEO[:, 5:], STATE)
    assert same(whole.snapshot(), again.snapshot())


def acts(model: WorldActionModel, weights: dict[str, Tensor] | None = None) -> Tensor:
    """What a fresh policy does after three frames, with other weights of the expert's times."""
    policy = watch(model.policy(2), episodes(model, 3), range(3))
    if weights is not None:
        model.expert.time_embedding.load_state_dict(weights)
    return policy.act(NOISE)


def test_modulation_does_not_outlive_a_reading() -> None:
    """New weights act at once, and what was computed in half precision stays there."""
    model = tiny_policy(MEMORIES["hybrid"])
    policy = watch(model.policy(2), episodes(model, 3), range(3))
    first = policy.act(NOISE)
    with torch.autocast("cpu", torch.bfloat16):
        half = policy.act(NOISE)
    assert not torch.equal(half, first)
    assert torch.equal(policy.act(NOISE), first)
    other = {k: v + 1.0 for k, v in model.expert.time_embedding.state_dict().items()}
    fresh = acts(tiny_policy(MEMORIES["hybrid"]), other)
    model.expert.time_embedding.load_state_dict(other)
    assert torch.equal(policy.act(NOISE), fresh)
    assert not torch.equal(fresh, first)
