"""Where chunks look: the weights are those of the attention that runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from loci.errors import LociError
from loci.memory import ROWS
from loci.seeds import normal
from loci.streaming.attended import Attending, attended
from loci.streaming.policy import Policy
from loci.streaming.session import Session
from tiny_policy import MEMORIES, episodes, tiny_policy, watch
from tiny_world import data, tiny_world


def begun(name: str) -> tuple[Session, torch.Tensor, torch.Tensor]:
    """A session of two streams, of 6 and 4 frames; where a chunk stands, and its noise."""
    model = tiny_world(ROWS[name])
    latents, poses = data(model)
    session = model.session(2)
    session.write(latents[:, :4], poses[:, :4])
    session.write(latents[:1, 4:6], poses[:1, 4:6], [0])
    return session, poses[:, 6:8], latents[:, 6:8]


@pytest.mark.parametrize("name", ["hybrid", "full", "window", "context-5", "joint-5", "none"])
@torch.no_grad()
def test_shares_are_those_of_the_attention_that_runs(name: str) -> None:
    """With values of 1 in one block and 0 elsewhere, what is seen is that block's weight."""
    session, ahead, noise = begun(name)
    kv = session.stream.kv
    for stream in range(2):
        for block, start in kv.tables[stream].start.items():
            slots = slice(kv.pivot + start, kv.pivot + start + kv.tables[stream].sizes[block.kind])
            for values in kv.values:
                values.zero_()
                values[stream, :, slots] = 1
            reading, shares = session.read(ahead), []

            def attend(layer, qkv, inner=reading.evidence.attend, shares=shares, stream=stream):
                ((q, k, v),) = qkv
                if q is not None:
                    (seen,) = inner(layer, [(q, k, torch.zeros_like(v))])
                    shares.append(seen[stream, :, : 2 * session.model.tokens].mean().item())
                return inner(layer, qkv)

            counted = replace(reading, evidence=replace(reading.evidence, attention=attend))
            session.denoise(counted, noise, 0.5)
            found = attended(session, reading, noise, 0.5)[stream]
            wanted = sum(shares) / len(shares)
            assert found.past[block] == pytest.approx(wanted, abs=1e-6)


@torch.no_grad()
def test_keys_in_eight_bits_are_read_as_what_they_stand_for() -> None:
    model, found = tiny_world(ROWS["hybrid"]), []
    latents, poses = data(model, batch=1)
    for kept in (None, "int8"):
        session = Session(model, 1, kv_as=kept)
        session.write(latents[:, :6], poses[:, :6])
        (row,) = attended(session, session.read(poses[:, 6:8]), latents[:, 6:8], 0.5)
        found.append(row.past)
    assert found[0].keys() == found[1].keys()
    assert list(found[1].values()) == pytest.approx(list(found[0].values()), abs=0.01)


@pytest.mark.parametrize("name", ["hybrid", "context-5", "joint-5", "none"])
def test_shares_add_up_and_looking_changes_nothing(name: str) -> None:
    session, ahead, noise = begun(name)
    before, reading = session.snapshot(), session.read(ahead)
    plain = session.denoise(reading, noise, 0.5)
    for row in attended(session, reading, noise, 0.5):
        assert sum(row.past.values()) + sum(row.beside) + row.itself == pytest.approx(1)
        assert len(row.beside) == session.model.config.memory.mixed
    assert torch.equal(session.denoise(reading, noise, 0.5), plain)
    after = session.snapshot()
    assert all(torch.equal(after[part], before[part]) for part in before)


def test_a_chunk_under_two_texts_is_refused() -> None:
    session, ahead, noise = begun("hybrid")
    reading = replace(session.read(ahead), guidance=object())
    with pytest.raises(LociError, match=r"guide\(None\)"):
        attended(session, reading, noise, 0.5)


@pytest.mark.parametrize("name", ["hybrid", "context-5", "none"])
def test_a_chunk_says_where_it_looks_while_it_is_made(name: str) -> None:
    session, ahead, noise = begun(name)
    plain, times = session.generate(ahead, noise), session.model.config.flow.evaluations(3)
    attending = Attending(session, session.read(ahead), {1})
    seen = []
    assert torch.equal(
        session.solve(attending.reading, noise, on_step=lambda n, t, x: seen.append(x)), plain
    )
    for row, other in zip(
        attending.found(), attended(session, session.read(ahead), seen[0], times[1]), strict=True
    ):
        assert row.past == pytest.approx(other.past)
        assert row.itself == pytest.approx(other.itself)


def acting(name: str) -> tuple[Policy, torch.Tensor]:
    """A policy of one robot that has seen four frames, and noise for its actions."""
    model = tiny_policy(MEMORIES[name])
    expert = model.config.expert
    policy = watch(model.policy(), episodes(model, 5, batch=1), range(4))
    return policy, normal((1, expert.horizon, expert.actions), 0, "act")


@pytest.mark.parametrize("name", ["hybrid", "window", "hybrid-acts", "tower-acts", "none"])
def test_actions_say_where_they_look_while_they_are_made(name: str) -> None:
    policy, noise = acting(name)
    before, plain = policy.snapshot(), policy.act(noise)
    attending = Attending(policy, policy.read())
    with pytest.raises(LociError, match="denoise the reading first"):
        attending.found()
    assert torch.equal(policy.solve(attending.reading, noise), plain)
    (row,) = attending.found()
    assert set(row.past) == set(policy.stream.kv.tables[0].start)
    assert sum(row.past.values()) + row.itself == pytest.approx(1)
    assert not row.beside
    assert 0 < row.itself < 1
    after = policy.snapshot()
    assert all(torch.equal(after[part], before[part]) for part in before)


@torch.no_grad()
def test_a_blocks_share_of_an_actions_attention_is_what_is_seen_of_its_values() -> None:
    policy, noise = acting("hybrid-acts")
    kv = policy.stream.kv
    for block, start in kv.tables[0].start.items():
        for values in kv.values:
            values.zero_()
            values[0, :, kv.pivot + start : kv.pivot + start + kv.tables[0].sizes[block.kind]] = 1
        reading, shares = policy.read(), []

        def attend(layer, qkv, inner=reading.evidence.attend, shares=shares):
            ((q, k, v),) = qkv
            (seen,) = inner(layer, [(q, k, torch.zeros_like(v))])
            shares.append(seen.mean().item())
            return inner(layer, qkv)

        counted = replace(reading, evidence=replace(reading.evidence, attention=attend))
        attending = Attending(policy, counted)
        policy.denoise(attending.reading, noise, 0.5)
        found = attending.found()[0].past[block]
        assert found == pytest.approx(sum(shares) / len(shares), abs=1e-6)


def test_a_reading_out_of_date_is_not_solved() -> None:
    policy, noise = acting("window")
    reading = policy.read()
    policy.reset()
    with pytest.raises(LociError, match="read again"):
        policy.solve(reading, noise)
    session, ahead, latents = begun("hybrid")
    old = session.read(ahead)
    with pytest.raises(LociError, match="read the poses of this chunk"):
        session.solve(old, latents[:, :1])
    session.reset()
    with pytest.raises(LociError, match="read again"):
        session.solve(old, latents)
