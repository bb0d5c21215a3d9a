"""The return loss counts what was seen before and is out of view, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from loci.errors import LociError
from loci.geometry import Camera
from loci.memory import ROWS
from loci.recipes.registry import recipes, rooms
from loci.training import world
from loci.training.objectives import ReturningRun, returning, returns
from loci.training.run import RunConfig
from loci.worlds.rooms.room import camera_pose
from tiny_world import walk


def path(*degrees: float) -> Tensor:
    """A camera that only turns."""
    return torch.from_numpy(np.stack([camera_pose(0, 0, np.radians(d)) for d in degrees]))[None]


def test_a_return_is_what_was_seen_before_and_has_left_the_view():
    camera = Camera()  # 60 degrees wide
    ahead, away = returns(path(0, 180, 0, 180, 90), [2, 4], 1, camera)[0].tolist()
    assert ahead == 1  # in full: seen at first, and behind the camera just before
    assert away == 0  # never seen
    still, new = returns(path(0, 0, 0, 180), [2, 3], 1, camera)[0].tolist()
    assert still == 0  # the last frame shows it
    assert new == 0
    part = float(returns(path(0, 180, 30), [2], 1, camera)[0, 0])
    assert 0.2 < part < 0.8


def test_a_chunk_counts_with_all_its_frames():
    camera = Camera()
    both = float(returns(path(0, 180, 0, 90), [2], 2, camera))
    assert both == pytest.approx(0.5)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch):
    def episodes(config, codec):
        shape = codec.latent_shape(config.camera)
        draw = torch.Generator().manual_seed(0)
        return torch.randn(config.episodes, config.length, *shape, generator=draw).half(), walk(
            config.episodes, config.length
        )

    monkeypatch.setattr(world, "latent_episodes", episodes)

    def build(weight: float | None):
        torch.manual_seed(0)
        run = rooms(ROWS["full"])
        dit = replace(run.world.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8)
        run = replace(
            run, world=replace(run.world, dit=dit), episodes=3, length=17, batch=2
        )
        return (run if weight is None else returning(run, weight)).task()

    return build


def test_it_is_the_plain_loss_and_the_weighted_mean_of_returning_chunks(task):
    plain, more, most = task(None), task(0.5), task(2.0)
    batch = plain.batch(0)
    losses = torch.rand(2, 4)
    share = returns(batch["poses"], plain.starts, 4, plain.config.world.camera)
    assert 0 < float(share.sum()) < share.numel()
    again = float((share * losses).sum() / share.sum())
    assert float(more.total(losses, batch)) == pytest.approx(float(losses.mean()) + 0.5 * again)
    one, two, three = (float(t.loss(batch)[0].detach()) for t in (plain, more, most))
    assert three - one == pytest.approx(4 * (two - one), rel=1e-3)
    assert two > one


def test_where_nothing_returns_the_loss_is_the_plain_one(task):
    built = task(1.0)
    batch = built.batch(0) | {"poses": torch.eye(4, dtype=torch.float64).repeat(2, 17, 1, 1)}
    losses = torch.rand(2, 4)
    assert float(built.total(losses, batch)) == pytest.approx(float(losses.mean()))


def test_recipes_differ_from_those_without_it_in_nothing_else():
    plain, again = recipes()["rooms-hybrid"](), recipes()["returns-hybrid"]()
    assert isinstance(again, ReturningRun)
    assert again.to_dict() == plain.to_dict() | {"type": "returning-world", "weight": 1.0}
    assert RunConfig.from_json(again.to_json()) == again
    with pytest.raises(LociError, match="use WorldRun"):
        replace(again, weight=0.0)
