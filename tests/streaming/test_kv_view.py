"""How a stream asks its rule: by whole frames, and no more keys than somebody sees."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from loci.memory import ROWS, Memory
from loci.memory.base import together
from loci.rules.rule import FOREVER, Kind, Rule, first, key, past, query, recent
from loci.streaming import kv_view
from tiny_world import MEMORIES, data, tiny_world


@dataclass(frozen=True, kw_only=True)
class Scattered(Memory, name="scattered-for-tests"):
    """Frames see every third frame, gists the frames in between, and both see gists of their own
    parity: nothing that anybody sees is one slice, and a frame's gists see other things than it."""

    @property
    def gists(self) -> int:
        return 2

    def rule(self) -> Rule:
        def every(count: int) -> Rule:
            return Rule(
                lambda q, k, s: k.frame % count == 0, "every",
                lambda frame: torch.where(frame % count == 0, FOREVER, -1),
            )

        parity = Rule(lambda q, k, s: (k.frame - q.now) % 2 == 0, "parity",
                      lambda frame: torch.full_like(frame, FOREVER))
        between = Rule(
            lambda q, k, s: k.frame % 3 != 0, "between",
            lambda frame: torch.where(frame % 3 != 0, FOREVER, -1),
        )
        frames = key(Kind.CLEAN) & (query(Kind.GIST) & past & between | recent(1))
        frames = frames | key(Kind.CLEAN) & ~query(Kind.GIST) & (every(3) | recent(1) | first(1))
        return frames | key(Kind.GIST) & past & parity | together


def test_what_is_seen_in_pieces_is_what_training_sees() -> None:
    model = tiny_world(Scattered())
    latents, poses = data(model, frames=13)
    noise, time = torch.randn(2, 1, 2, *model.latent_shape), torch.full((2, 1), 0.5)
    wanted = model(latents, noise, time, poses, [11], attention="dense")[:, 0]
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
    real = kv_view.F.scaled_dot_product_attention

    def attend(q, k, *rest):
        attended.append(k.shape[2])
        return real(q, k, *rest)

    session = model.session(1)
    monkeypatch.setattr(kv_view.F, "scaled_dot_product_attention", attend)
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


class Copied(TorchDispatchMode):
    """Counts the numbers that gathering operations make."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in (
            torch.ops.aten.index, torch.ops.aten.index_select, torch.ops.aten.gather,
        ):
            self.total += made.numel()
        return made


@pytest.mark.parametrize("memory", [MEMORIES["hybrid"], MEMORIES["full"], Scattered()])
def test_what_scattered_streams_copy_is_what_they_see(memory: Memory) -> None:
    """Not all that their slots could hold, and once in each pass."""
    model, counts = tiny_world(memory), []
    latents = torch.randn(3, 1, *model.latent_shape)
    for capacity in (16, 160):
        session = model.session(6, capacity)
        for stream, frames in ((0, 5), (2, 6), (5, 8)):
            for _ in range(frames):
                session.write(latents[:1], torch.eye(4).double()[None, None], [stream])
        with Copied() as copied, torch.no_grad():
            session.write(latents, torch.eye(4).double().repeat(3, 1, 1, 1), [0, 2, 5])
        counts.append(copied.total)
    kv = session.stream.kv
    seen = 3 * max(session.tokens(stream) for stream in (0, 2, 5)) * kv.keys[0][0, :, 0].numel()
    assert counts[0] == counts[1] <= 1.2 * 2 * len(kv.keys) * seen
