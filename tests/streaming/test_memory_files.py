"""Memories that an earlier version saved go on where they stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from loci.models.world import WorldModel
from loci.models.world_action import WorldActionModel
from loci.streaming.policy import Policy
from loci.streaming.session import Session

# Written by Loci at commit 7da617f, with the frames below and the checkpoints that ship.
SAVED = Path(__file__).parent / "version_2"


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(("name", "batch"), [("hybrid", 2), ("delta", 1)])
def test_a_session_of_version_2(name: str, batch: int, tmp_path: Path) -> None:
    model = WorldModel.load(name)
    latents = normal(0, batch, 3, *model.codec.latent_shape(model.config.camera))
    poses = torch.eye(4, dtype=torch.float64).repeat(batch, 3, 1, 1)
    poses[:, :, 0, 3] = torch.arange(3) * 0.1
    session = model.session(batch)
    session.write(latents, poses)
    if batch > 1:  # the streams are of different lengths
        session.write(latents[:1] * 0.5, poses[:1], streams=[0])
    old = Session.load(model, SAVED / f"{name}.safetensors")
    assert old.lengths == session.lengths
    same(old.snapshot(), session.snapshot())
    for one in (old, session):
        one.write(latents[:, :1], poses[:, :1])
    same(old.snapshot(), session.snapshot())
    old.save(tmp_path / "now.safetensors")
    same(Session.load(model, tmp_path / "now.safetensors").snapshot(), session.snapshot())


def test_a_policy_of_version_2() -> None:
    name = "put-back-block-hybrid"
    model = WorldActionModel.load(name)
    policy = model.policy()
    for step in range(3):
        shape = model.world.codec.latent_shape(model.config.world.camera)
        policy.observe_latents(normal(step, 1, 1, *shape), normal(100 + step, 1, 14))
    old = Policy.load(model, SAVED / f"{name}.safetensors")
    assert old.lengths == policy.lengths == [3]
    same(old.snapshot(), policy.snapshot())
    noise = normal(7, 1, model.config.expert.horizon, 14)
    torch.testing.assert_close(old.act(noise), policy.act(noise), rtol=1e-4, atol=1e-4)
