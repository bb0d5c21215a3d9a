"""The graphs that a session keeps: as long as its streams hold something, each stream its own. And
what is left of a stream whose pass was cut short."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from loci.errors import LociError
from loci.memory import ROWS
from loci.models.trunk import Block
from loci.streaming.frame_buffer import FrameBuffer
from loci.streaming.session import Session
from loci.streaming.state_cache import StateCache
from tiny_world import data, same, started, tiny_world

NAMES = ["hybrid", "tower", "context-5", "joint-5", "learned-4", "ssm", "ssm-legacy", "delta",
         "ttt", "spatial", "spatial-cross-32"]


def predicted(session: Session, latents: Tensor, poses: Tensor, streams: list[int]) -> Tensor:
    reading = session.read(poses[streams, 6:8], streams)
    return session.denoise(reading, latents[streams, 6:8].detach(), 0.5)


@pytest.mark.parametrize("start_over", [
    lambda session: session.reset(), lambda session: session.init(),
    lambda session: [session.reset([stream]) for stream in (1, 0)],
], ids=["reset", "init", "one by one"])
@pytest.mark.parametrize("name", NAMES)
def test_each_episode_has_a_graph_of_its_own(name, start_over):
    model = tiny_world(ROWS[name])
    latents, poses = data(model)
    session, gradients = model.session(2, gradients=True), []
    for _ in range(2):
        seen = latents.clone().requires_grad_()
        session.write(seen[:, :6], poses[:, :6])
        predicted(session, seen, poses, [0, 1]).square().sum().backward()
        gradients.append(seen.grad)
        start_over(session)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("act", [
    lambda session, latents, poses: session.write(latents[1:, 6:8], poses[1:, 6:8], [1]),
    lambda session, latents, poses: session.reset([1]),
], ids=["write", "reset"])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_what_becomes_of_one_stream_cuts_no_gradient_of_another(name, grad, act):
    model = tiny_world(ROWS[name])
    latents, poses = data(model)
    found = []
    for disturbed in (False, True):
        seen, session = latents.clone().requires_grad_(), model.session(2, gradients=True)
        session.write(seen[:, :6], poses[:, :6])
        if disturbed:
            with torch.set_grad_enabled(grad):
                act(session, latents, poses)
        predicted(session, seen, poses, [0]).square().sum().backward()
        found.append(seen.grad)
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["window", "tower", "delta", "joint-5"])
def test_a_write_that_was_cut_short_is_not_gone_on_with(name, monkeypatch):
    session, latents, poses = started(name)
    before = session.snapshot()
    done = Block.update

    def dying(self, *rest):
        raise KeyboardInterrupt

    def write(start, stop, streams=None):
        rows = slice(None) if streams is None else streams
        session.write(latents[rows, start:stop], poses[rows, start:stop], streams)

    monkeypatch.setattr(Block if name != "joint-5" else FrameBuffer,
                        "update" if name != "joint-5" else "write", dying)
    with pytest.raises(KeyboardInterrupt):
        write(5, 8, [1])
    monkeypatch.setattr(Block, "update", done)
    for refused in (lambda: write(5, 8), session.snapshot, session.fork,
                    lambda: session.read(poses[:, 5:7])):
        with pytest.raises(LociError, match="cut short and left them half-written; reset"):
            refused()
    session.read(poses[:1, 5:7], [0])  # the other stream goes on
    monkeypatch.undo()
    assert same(session.restore(before).snapshot(), before)
    write(5, 8)
    session.reset([1])
    assert session.lengths == [8, 0]


@pytest.mark.parametrize("name", [name for name in NAMES if tiny_world(ROWS[name]).states])
def test_carried_states_live_where_the_model_does(name):
    """On a device that computes nothing, which refuses indices of another as a GPU does."""
    carried = StateCache(tiny_world(ROWS[name]).to("meta").states, 2)
    carried.reset([1])
    assert all(value.is_meta for state in carried.states.values() for value in state.values())
