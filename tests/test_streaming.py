"""How a stream asks its rule: by whole frames, and no more keys than somebody sees."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loci.memory import ROWS, Memory
from loci.memory.base import together
from loci.rules.rule import Coords, Kind, Rule, first, key, past, query, recent
from loci.rules.spans import stretches
from loci.streaming import attend as streaming
from loci.training.packed import packed_pass
from tiny_world import data, tiny_world

# Frame and kind of neighbouring stretches, and their lengths.
PIECES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([-1, 0, 2]), st.integers(1, 4)), min_size=1
)


@given(PIECES, st.data())
def test_stretches_are_runs_of_one_frame_and_kind(pieces, draws) -> None:
    places = [(frame, kind) for frame, kind, size in pieces for _ in range(size)]
    frame, kind = torch.tensor(places).unbind(-1)
    found = stretches(Coords(frame, frame, frame, kind, frame, frame))
    stops = found.starts + found.sizes
    assert stops.tolist() == [*found.starts[1:].tolist(), len(places)]
    for start, stop in zip(found.starts.tolist(), stops.tolist(), strict=True):
        assert len(set(places[start:stop])) == 1
        assert start == 0 or places[start - 1] != places[start]
    assert [*zip(found.coords.frame.tolist(), found.coords.kind.tolist(), strict=True)] == [
        places[start] for start in found.starts.tolist()
    ]
    some = torch.tensor(draws.draw(st.lists(st.booleans(), min_size=len(found),
                                            max_size=len(found))))
    spread = some.repeat_interleave(found.sizes)
    tokens = found.tokens(some)
    assert tokens.tolist() == spread.nonzero()[:, 0].tolist()
    one = len(tokens) > 0 and int(tokens[-1] - tokens[0]) + 1 == len(tokens)
    assert found.span(some) == ((int(tokens[0]), int(tokens[-1]) + 1) if one else None)


@dataclass(frozen=True, kw_only=True)
class Scattered(Memory, name="scattered-for-tests"):
    """Frames see every third frame, gists the frames in between, and both see gists of their own
    parity: nothing that anybody sees is one slice, and a frame's gists see other things than it."""

    @property
    def gists(self) -> int:
        return 2

    def rule(self) -> Rule:
        def every(count: int) -> Rule:
            return Rule(lambda q, k, s: (k.frame % count == 0) & (k.frame <= q.now), "every")

        parity = Rule(lambda q, k, s: (k.frame - q.now) % 2 == 0, "parity")
        frames = key(Kind.CLEAN) & (query(Kind.GIST) & past & ~every(3) | recent(1))
        frames = frames | key(Kind.CLEAN) & ~query(Kind.GIST) & (every(3) | recent(1) | first(1))
        return frames | key(Kind.GIST) & past & parity | together


def test_what_is_seen_in_pieces_is_what_training_sees() -> None:
    model = tiny_world(Scattered())
    latents, poses = data(model, frames=13)
    noise, time = torch.randn(2, 1, 2, *model.latent_shape), torch.full((2, 1), 0.5)
    wanted = packed_pass(model, latents, noise, time, poses, [11], attention="dense")[:, 0]
    for cuts in ([1] * 11, [11], [3, 1, 5, 2], [1, 7, 3]):
        session, at = model.session(2, capacity=1), 0
        for count in cuts:
            session.write(latents[:, at : at + count], poses[:, at : at + count])
            at += count
        got = session.denoise(session.read(poses[:, 11:]), noise[:, 0], 0.5)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "grows"), [("context-20", False), ("window", False),
                                             ("hybrid", True), ("full", True)])
def test_a_write_attends_to_what_it_can_see(
    name: str, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_world(ROWS[name])
    latents, poses = data(model, frames=8, batch=1)
    attended: list[int] = []
    real = streaming.F.scaled_dot_product_attention

    def attend(q, k, *rest):
        attended.append(k.shape[2])
        return real(q, k, *rest)

    session = model.session(1)
    monkeypatch.setattr(streaming.F, "scaled_dot_product_attention", attend)
    found = []
    for _ in range(5):
        attended.clear()
        session.write(latents, poses)
        session.write(latents[:, :1], poses[:, :1])
        found.append(sorted(set(attended)))
    # The first frames had less behind them than any window holds.
    assert (found[-1] != found[1]) == grows
    visible = {"context-20": 1, "window": 4}
    if name in visible:
        alone, block = found[-1]
        assert (alone, block) == (
            visible[name] * model.tokens, (8 + visible[name] - 1) * model.tokens
        )
