"""Ports of the video transformer: nothing at the start, and learnt from there."""

from __future__ import annotations

import pytest
import torch

from loci.errors import LociError
from loci.flow import Flow
from loci.geometry import Camera
from loci.memory import Compose, Memory
from loci.memory.ports import Ports
from loci.models.codecs import ImageCodecConfig
from loci.models.wan import Wan, WanConfig
from loci.models.world import WorldConfig, WorldModel
from loci.training.initialise import initialise_world
from recollecting import Recollecting
from tiny_world import data, tiny_world

WAYS = ("channels", "render", "tokens")
PORTS = ("channel_embedding", "branch", "further")


def born(memory: Memory, seed: int = 0) -> WorldModel:
    """A model as training begins with it."""
    codec = ImageCodecConfig()
    dit = WanConfig(
        in_channels=codec.channels, out_channels=codec.channels, dim=32, ffn_dim=48, num_heads=2,
        num_layers=3, freq_dim=16, text_dim=0, camera="inject",
    )
    model = WorldModel(WorldConfig(memory=memory, dit=dit, codec=codec, flow=Flow(),
                                   camera=Camera(height=32, width=32), chunk=2, steps=2))
    torch.manual_seed(seed)
    initialise_world(model)
    with torch.no_grad():
        model.dit.head.head.weight.normal_()
    return model


def predicted(model: WorldModel) -> torch.Tensor:
    latents, poses = data(model, frames=7)
    noisy = torch.randn(2, 2, 2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    return model(latents, noisy, torch.tensor([[0.3, 0.8]] * 2), poses, [3, 5])


@pytest.mark.parametrize("ways", [(way,) for way in WAYS] + [WAYS])
def test_a_model_with_ports_begins_as_the_model_without(ways):
    plain, model = born(Recollecting(ways=())), born(Recollecting(ways=ways))
    own = model.state_dict()
    there = plain.state_dict()
    assert {name for name in own if name not in there} == {
        name for name in own if name.startswith(tuple(f"dit.{port}." for port in PORTS))
    }
    model.load_state_dict(own | there)
    model.dit.open_ports()
    torch.testing.assert_close(predicted(model), predicted(plain), atol=0, rtol=0)
    # What is zero has a gradient, so that it does not stay so.
    predicted(model).square().sum().backward()
    ends = {
        "channels": ["channel_embedding.weight"],
        "render": ["branch.zeros.1.weight"],
        "tokens": ["further.layers.block0.attn.o.weight", "further.layers.block2.attn.o.weight"],
    }
    grads = dict(model.dit.named_parameters())
    for way in ways:
        for name in ends[way]:
            assert grads[name].grad.abs().max() > 0, name
    assert not any(name.startswith(PORTS) for name, _ in plain.dit.named_parameters())


def test_the_branch_begins_as_a_copy_of_the_first_blocks():
    model = born(Recollecting(ways=("render",)))
    (copy,) = model.dit.branch.blocks
    for mine, true in zip(copy.parameters(), model.dit.blocks[0].parameters(), strict=True):
        assert torch.equal(mine, true)
    assert all(not p.any() for layer in model.dit.branch.zeros for p in layer.parameters())


@pytest.mark.parametrize("ways", [(way,) for way in WAYS])
def test_once_it_is_learnt_the_evidence_counts(ways):
    model = tiny_world(Recollecting(ways=ways))
    latents, poses = data(model, frames=8)
    outputs = []
    for scale in (1.0, 2.0):
        session = model.session(2)
        session.write(torch.cat([scale * latents[:, :4], latents[:, 4:5]], dim=1), poses[:, :5])
        reading = session.read(poses[:, 5:7])
        outputs.append(session.denoise(reading, latents[:, 5:7], 0.5))
    assert not torch.allclose(*outputs, atol=1e-5)


def test_where_no_token_is_there_nothing_is_read():
    model = tiny_world(Recollecting(ways=("tokens",)))
    tokens = torch.randn(2, 5, 8)
    absent = model.dit.further.encode(tokens, torch.zeros(2, 5, dtype=torch.bool))
    some = model.dit.further.encode(tokens, torch.tensor([[True, False] * 2 + [True]] * 2))
    few = model.dit.further.encode(tokens[:, ::2], None)
    x = torch.randn(2, 1, 8, 32)
    assert torch.equal(model.dit.further(x, absent, 0), x)
    assert torch.equal(model.dit.further(x, some, 1), x)  # every second block reads
    torch.testing.assert_close(
        model.dit.further(x, some, 0), model.dit.further(x, few, 0), atol=1e-5, rtol=1e-5
    )


def test_two_memories_do_not_share_a_port():
    both = Compose(members=(Recollecting(ways=("tokens",)), Recollecting(ways=("tokens",))))
    with pytest.raises(LociError, match="two memories use the port 'tokens'; give each its own"):
        tiny_world(both)
    apart = Compose(members=(Recollecting(ways=("tokens",)), Recollecting(ways=("render",))))
    with pytest.raises(LociError, match="two stores have one name"):
        tiny_world(apart).session()
    with pytest.raises(LociError, match="0 or more"):
        Ports(channels=-1)
    dit = tiny_world(Recollecting(ways=())).config.dit
    with pytest.raises(LociError, match="a branch of 9 blocks beside 2"):
        Wan(dit, Ports(branch=9))


def test_what_a_memory_asks_for_has_to_be_given():
    model = tiny_world(Recollecting(ways=("channels",), depth=True))
    latents, poses = data(model, frames=7)
    depth = torch.rand(2, 7, 32, 32) + 1
    noisy, time = torch.randn(2, 1, 2, *model.latent_shape), torch.full((2, 1), 0.5)
    session = model.session(2)
    with pytest.raises(LociError, match=r"asks for the depth of every frame; give depth="):
        session.write(latents[:, :5], poses[:, :5])
    assert session.lengths == [0, 0]
    for wrong, words in ((depth[:1, :5], r"depth of shape \(1, 5"), (depth * torch.nan, "NaN")):
        with pytest.raises(LociError, match=words):
            session.write(latents[:, :5], poses[:, :5], depth=wrong[:, :5])
    for frame in range(5):
        here = slice(frame, frame + 1)
        session.write(latents[:, here], poses[:, here], depth=depth[:, here])
    streamed = session.denoise(session.read(poses[:, 5:7]), noisy[:, 0], 0.5)
    with pytest.raises(LociError, match="give depth="):
        model(latents, noisy, time, poses, [5])
    packed = model(latents, noisy, time, poses, [5], extras={"depth": depth})[:, 0]
    torch.testing.assert_close(streamed, packed, atol=1e-5, rtol=1e-5)
    other = model(latents, noisy, time, poses, [5], extras={"depth": 2 * depth})[:, 0]
    assert not torch.allclose(other, packed, atol=1e-5)
