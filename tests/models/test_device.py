"""Sessions and policies away from the host, as on a GPU: nothing meets what was left behind."""

from __future__ import annotations

import pytest
import torch

from away import AWAY, apart
from kinds import one_of_each_kind
from loci.memory import ROWS
from tiny_policy import MEMORIES, PROPRIO, episodes, instructions, tiny_policy
from tiny_world import data, tiny_world


def test_what_was_left_behind_is_noticed():
    there = torch.ones(2, 2, device=AWAY)
    with apart():
        for mixed in (lambda: there @ torch.ones(2, 2), lambda: there[torch.zeros(2).long()],
                      lambda: there + torch.ones(2)):
            with pytest.raises(RuntimeError, match="aten"):
                mixed()
        with pytest.raises(RuntimeError, match="item"):
            bool((there > 0).all())
        assert (there * torch.tensor(2.0)).device == torch.ones(2).to(AWAY).device == AWAY


@pytest.mark.parametrize("name", one_of_each_kind({n: m for n, m in ROWS.items() if not m.wants}))
def test_a_session_runs_away_from_the_host(name):
    model = tiny_world(ROWS[name])
    latents, poses = data(model)
    session = model.to(AWAY).session(2)
    with torch.no_grad(), apart():
        session.write(latents[:, :6], poses[:, :6])
        reading = session.read(poses[:, 6:8])
        assert session.denoise(reading, latents[:, 6:8].to(AWAY), 0.5).device == AWAY
        session.generate(poses[1:, 6:8], latents[1:, 6:8], 2, [1])
        session.fork().write(latents[1:, 6:8], poses[1:, 6:8], [1])


@pytest.mark.parametrize("name", one_of_each_kind(MEMORIES))
def test_a_policy_runs_away_from_the_host(name):
    model = tiny_policy(MEMORIES[name], text=True)
    seen = episodes(model, 3)
    images = torch.zeros(2, 1, 32, 32, 3, dtype=torch.uint8)
    policy = model.to(AWAY).policy(2)
    with torch.no_grad(), apart():
        policy.init(instructions())
        policy.observe(images, torch.zeros(2, PROPRIO))
        for t in range(2):
            actions = policy.act(seen["actions"][:, t])
            policy.observe_latents(seen["latents"][:, t : t + 1], seen["proprio"][:, t], actions)
        policy.fork().act(seen["actions"][:1, 2], streams=[1])
