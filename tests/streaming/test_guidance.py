"""Classifier-free guidance: one reading and one pass give what two passes by hand give."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

import box_walks
from loci.errors import LociError
from loci.memory import ROWS
from loci.models.text import HashedWords
from loci.models.world import WorldModel
from loci.streaming.session import Session
from tiny_world import MEMORIES, data, tiny_world

WIDTH, SCALE = 24, 5.0
TOWARDS, AWAY = ["the red room", "a blue door, far away"], ["blurred", ""]
ALL = {**MEMORIES, **ROWS}
# One of each way to remember, and several at once; the others take longer.
QUICK = ("none", "hybrid", "context-5", "ssm", "mixture+delta", "all ports+gists+state", "spmem")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in ALL]


@cache
def reading(name: str) -> WorldModel:
    """A tiny world model of a memory that reads sentences."""
    config = tiny_world(ALL[name], text_dim=WIDTH).config
    torch.manual_seed(0)
    model = replace(config, text=HashedWords()).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def begun(model: WorldModel, ragged: bool = True) -> tuple[Session, Tensor]:
    """A session that has seen something, and poses of a chunk; streams of different lengths."""
    session = model.session(2).init(TOWARDS)
    if model.config.memory.wants:
        walks = box_walks.episode(model)
        box_walks.watch(session, walks, 0, 4)
        return session, walks["poses"][:, 5:7]
    latents, poses = data(model, frames=8)
    session.write(latents[:, :4], poses[:, :4])
    if ragged:
        session.write(latents[1:, 4:5], poses[1:, 4:5], streams=[1])
    return session, poses[:, 5:7]


def by_hand(session: Session, poses: Tensor, noise: Tensor, streams: list[int]) -> Tensor:
    """The same memory, read under each text, and two passes a step."""
    towards = session.tell(TOWARDS).read(poses, streams)
    away = session.tell(AWAY).read(poses, streams)
    session.tell(TOWARDS)
    flow = session.model.config.flow

    def predict(x: Tensor, time: float) -> Tensor:
        one, other = (session.denoise(each, x, time) for each in (towards, away))
        return other + SCALE * (one - other)

    with torch.no_grad():
        return flow.euler(predict, noise, session.model.config.steps)


@pytest.mark.parametrize("name", NAMES)
def test_one_reading_is_two_passes_by_hand(name):
    model = reading(name)
    session, poses = begun(model)
    for streams in ([0, 1], [1]):
        noise = torch.randn(len(streams), 2, *model.latent_shape)
        where = poses[streams]
        expected = by_hand(session.guide(None), where, noise, streams)
        plain = session.generate(where, noise, streams=streams)
        before = session.snapshot()
        session.guide(SCALE, AWAY)
        got = session.generate(where, noise, streams=streams)
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
        assert (got - plain).abs().max() > 1e-3
        assert all(torch.equal(part, before[key]) for key, part in session.snapshot().items())


def test_a_chunk_is_read_once_and_denoised_in_one_pass(monkeypatch):
    session, poses = begun(reading("hybrid"))
    session.guide(SCALE, AWAY)
    calls: list[str] = []

    def counted(owner: object, name: str) -> None:
        inner = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (calls.append(name), inner(*a, **k))[1])

    counted(session.stream, "query")
    counted(session.model, "denoise")
    session.generate(poses, torch.randn(2, 2, *session.model.latent_shape))
    assert calls == ["query"] + ["denoise"] * session.model.config.steps


def test_times_of_rows_and_embeddings():
    """A time a row, a tensor without rows, and the negative text as embeddings of its lengths."""
    session, poses = begun(reading("hybrid"), ragged=False)
    model = session.model
    x = torch.randn(2, 2, *model.latent_shape)
    embeddings, lengths = model.embed(AWAY)
    with torch.no_grad():
        for time in (torch.tensor([0.9, 0.2]), torch.tensor(0.4)):
            one = session.guide(None).tell(TOWARDS).read(poses)
            other = session.tell(AWAY).read(poses)
            pair = [session.denoise(each, x, time) for each in (one, other)]
            session.tell(TOWARDS).guide(SCALE, embeddings, lengths)
            got = session.denoise(session.read(poses), x, time)
            torch.testing.assert_close(got, pair[1] + SCALE * (pair[0] - pair[1]),
                                       atol=1e-5, rtol=1e-5)


def test_a_scale_of_one_is_none_and_forks_are_guided_alike():
    session, poses = begun(reading("hybrid"))
    noise = torch.randn(2, 2, *session.model.latent_shape)
    plain = session.generate(poses, noise)
    assert torch.equal(session.guide(1.0, AWAY).generate(poses, noise), plain)
    guided = session.guide(SCALE, AWAY).generate(poses, noise)
    assert torch.equal(session.fork().generate(poses, noise), guided)
    # The memory is that of the told text: what is written afterwards is not guided.
    session.write(guided, poses)
    held = session.snapshot()
    other = begun(reading("hybrid"))[0]
    other.write(guided, poses)
    assert all(torch.equal(held[key], part) for key, part in other.snapshot().items())


def test_guidance_that_is_none_is_met_with_one_line():
    session, poses = begun(reading("hybrid"))
    with pytest.raises(LociError, match="guidance of nan"):
        session.guide(float("nan"))
    with pytest.raises(LociError, match="1 sentences for 2 streams"):
        session.guide(SCALE, ["a"])
    assert session.guidance is None
    with pytest.raises(LociError, match="reads no sentences"):
        tiny_world(MEMORIES["hybrid"]).session(1).guide(SCALE)
    plain = tiny_world(MEMORIES["hybrid"], text_dim=WIDTH).session(2)
    latents, _ = data(plain.model, frames=2)
    plain.write(latents[:, :1], poses[:, :1])
    plain.guide(SCALE, torch.randn(2, 3, WIDTH))
    with pytest.raises(LociError, match="towards no text"):
        plain.read(poses)
