"""Messages that nobody should send, among those that everybody does: the server stays, its sessions
keep to themselves, and what they held is given back."""

from __future__ import annotations

import contextlib
import time
from socket import SHUT_RDWR
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from websockets.sync.client import connect as dial

from loci.serving.client import pack, unpack
from loci.serving.server import Server
from served import Own, episode, robots, serving
from tiny_policy import MEMORIES, PROPRIO, tiny_policy

MODEL = tiny_policy(MEMORIES["hybrid"])
LEAST = 12  # frames that a session sees at most here

arrays = st.builds(
    lambda shape, dtype: np.ones(shape, dtype),
    st.lists(st.integers(0, 33), max_size=4).map(tuple),
    st.sampled_from(["uint8", "float32", "int64", "bool", "float16"]),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=8),
    st.binary(max_size=8), arrays, st.sampled_from([np.full(PROPRIO, np.nan), np.zeros(PROPRIO)]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6,
)
names = st.sampled_from([
    "op", "state", "image", "images", "pixels", "prompt", "executed", "reset", "seed", "episode",
    "name", "session", "deadline_ms", "replace", "instruction", "observation.state", "poses", "id",
]) | st.text(max_size=6)
ops = st.sampled_from([
    "infer", "observe", "act", "reset", "seed", "save", "restore", "fork", "resume", "info",
    "instruction", "init", "step", "close", "keep", "again", "__init__", "",
])
maps = st.fixed_dictionaries({}, optional={"op": ops}).flatmap(
    lambda fixed: st.dictionaries(names, values, max_size=5).map(lambda free: {**free, **fixed})
)


class Strangers(RuleBasedStateMachine):
    """Connections, each with what its robot should do."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.ends = contextlib.ExitStack()
        self.open: list[tuple[Any, Own]] = []
        self.frames = episode(0, 8)

    @initialize()
    def begin(self) -> None:
        self.connect()

    @rule()
    def connect(self) -> None:
        if len(self.open) < 3:
            socket = self.ends.enter_context(
                dial(f"ws://127.0.0.1:{self.server.port}", compression=None, max_size=None)
            )
            assert unpack(socket.recv(30))["server"] == "loci"
            self.open.append((socket, Own(MODEL.policy())))

    @rule(which=st.integers(0, 2), seen=st.integers(0, 7))
    def infer(self, which: int, seen: int) -> None:
        socket, own = self.open[which % len(self.open)]
        if own.policy.lengths[0] >= LEAST:
            self.start_over(socket, own)
        socket.send(pack(self.frames[seen]))
        answer = socket.recv(30)
        assert isinstance(answer, bytes), answer
        assert np.array_equal(unpack(answer)["actions"], own.infer(self.frames[seen]))

    @rule(which=st.integers(0, 2), junk=st.binary(max_size=60) | st.text(max_size=20))
    def send_junk(self, which: int, junk: bytes | str) -> None:
        socket, own = self.open[which % len(self.open)]
        socket.send(junk)
        self.understood(socket, own)

    @rule(which=st.integers(0, 2), message=maps, cut=st.integers(0, 40))
    def send_nonsense(self, which: int, message: dict[str, Any], cut: int) -> None:
        socket, own = self.open[which % len(self.open)]
        data = pack(message)
        socket.send(data[: max(0, len(data) - cut)] if cut > 30 else data)
        self.understood(socket, own)

    @rule(which=st.integers(0, 2), message=maps, rudely=st.booleans())
    def leave_without_a_word(self, which: int, message: dict[str, Any], rudely: bool) -> None:
        if len(self.open) > 1:
            socket, _ = self.open.pop(which % len(self.open))
            socket.send(pack(message))
            if rudely:
                socket.socket.shutdown(SHUT_RDWR)
            socket.close()

    def understood(self, socket: Any, own: Own) -> None:
        """It is answered. What was a request after all leaves a robot that begins anew."""
        answer = socket.recv(30)
        if isinstance(answer, str):
            assert answer.partition(": ")[0] == "bad", answer
            assert "\n" not in answer
        else:
            unpack(answer)
            self.start_over(socket, own)

    def start_over(self, socket: Any, own: Own) -> None:
        socket.send(msgpack.packb({"op": "reset", "seed": 0}))
        assert unpack(socket.recv(30))["frames"] == 0
        own.policy.reset()
        own.made = 0

    @invariant()
    def it_lives(self) -> None:
        assert self.server.engine._thread.is_alive()
        assert len(self.server.engine.pool.inside) <= 4

    def teardown(self) -> None:
        self.ends.close()


def fuzz(examples: int, steps: int, folder: Any) -> None:
    with serving(
        robots(MODEL), saved=folder, keep_lost=3, frames=LEAST + 1, slots=2
    ) as server:
        Strangers.server = server
        run_state_machine_as_test(Strangers, settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ))
        pool, until = server.engine.pool, time.monotonic() + 10
        while server.engine.sessions and time.monotonic() < until:
            time.sleep(0.01)
        assert not server.engine.sessions
        assert not pool.inside
        assert sorted(pool.free) == [0, 1]
        assert not list(pool.folder.iterdir())
        assert len(list(server.options.lost.iterdir())) <= 3


def test_strangers_do_no_harm(tmp_path) -> None:
    fuzz(4, 12, tmp_path)


@pytest.mark.slow
def test_ten_thousand_messages_do_no_harm(tmp_path) -> None:
    fuzz(200, 50, tmp_path)
