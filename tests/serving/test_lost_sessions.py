"""Clients that vanish without a goodbye, and come back to the session that they lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from socket import SHUT_RDWR

import numpy as np
import pytest
from websockets.protocol import State

from loci.serving.client import Client, ServerError, pack
from loci.serving.server import Server
from served import Own, connect, episode, robots, serving, worlds
from tiny_policy import MEMORIES, tiny_policy
from tiny_world import MEMORIES as WORLDS
from tiny_world import tiny_world

IMAGE = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return tiny_policy(MEMORIES["hybrid"])


@pytest.fixture
def server(model, tmp_path):
    with serving(robots(model), saved=tmp_path, keep_lost=2) as server:
        yield server


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert true()


def cut(client: Client) -> None:
    client._socket.socket.shutdown(SHUT_RDWR)


def names(server: Server) -> set[str]:
    """The sessions that are kept."""
    return {path.stem for path in server.options.lost.glob("[!.]*")}


def vanish(client: Client, server: Server) -> None:
    """A client is gone, and the server has missed it."""
    cut(client)
    until(lambda: client.session not in server.engine.sessions)


def answer_is_lost(
    client: Client, server: Server, end: Callable[[Client], None] = cut
) -> None:
    """The connection breaks when the next request is carried out and its answer is under way."""
    exchange = client._exchange

    def broken(data: bytes) -> dict:
        client._exchange = exchange
        before = server.engine.sessions[client.session].made
        client._socket.send(data)
        until(lambda: server.engine.sessions[client.session].made > before)
        end(client)
        raise TimeoutError("no answer")

    client._exchange = broken


def nobody_notices(client: Client, server: Server) -> None:
    """The same, and the old connection stays open."""
    answer_is_lost(client, server, end=lambda client: None)
    drop, old = client._drop, client._socket

    def leave() -> None:
        client._drop = drop
        client._ends.pop_all()
        assert old.protocol.state is State.OPEN

    client._drop = leave


@pytest.mark.parametrize("breaks", [vanish, answer_is_lost, nobody_notices])
def test_a_robot_whose_connection_breaks_acts_as_if_it_had_not(breaks, model, server) -> None:
    seen, own = episode(3, 6), Own(model.policy(), 5, 2)
    with connect(server, reconnect=10) as client, connect(server) as other:
        name = client.session
        client.seed(5, episode=2)
        for number, one in enumerate(seen):
            if number in (2, 4):  # twice, under the same name
                breaks(client, server)
            assert np.array_equal(client.infer(one)["actions"], own.infer(one)), number
        assert client.session == name in server.engine.sessions
        assert client.info()["frames"] == len(seen)
        assert len(server.engine.sessions) == 2
        assert other.infer(seen[0])["frames"] == 1
        shown = server.engine.metrics.text().decode()
        assert "\nloci_lost 2.0\n" in shown
        assert names(server) == {name}
    until(lambda: not server.engine.sessions)
    assert not names(server)  # it said goodbye


def test_a_session_that_has_only_been_told_its_seed_comes_back(model, server) -> None:
    (one,) = episode(4, 1)
    with connect(server, reconnect=10) as client:
        client.reset(seed=8)
        vanish(client, server)
        assert np.array_equal(client.infer(one)["actions"], Own(model.policy(), 8).infer(one))


def test_another_process_goes_on_when_a_server_ends(model, tmp_path) -> None:
    """A client of any kind, which knows the session's name."""
    seen, own = episode(5, 4), Own(model.policy())
    with serving(robots(model), saved=tmp_path, keep_lost=8) as first:
        client = connect(first)
        for one in seen[:2]:
            assert np.array_equal(client.infer(one)["actions"], own.infer(one))
    with serving(robots(model), saved=tmp_path, keep_lost=8) as second:
        assert names(second) == {client.session}
        with connect(second) as other:
            answer = other.infer({"op": "resume", "session": client.session})
            assert (answer["frames"], answer["session"]) == (2, client.session)
            for one in seen[2:]:
                assert np.array_equal(other.infer(one)["actions"], own.infer(one))


def test_the_newest_are_kept_and_what_clients_saved_stays(server) -> None:
    (one,) = episode(6, 1)
    lost = []
    for number in range(4):
        client = connect(server)
        client.infer(one)
        client.save(f"mine-{number}")
        vanish(client, server)
        lost.append(client.session)
    assert names(server) == {*lost[2:]}
    assert len(list(server.options.saved.glob("mine-*"))) == 4
    with connect(server) as client, connect(server) as other:
        assert client.resume(lost[3])["frames"] == 1
        for session, words in (
            (lost[0], "is lost here; it ended, or others have been kept since"),
            ("../mine-1", "give a name of up to 64 letters"),
            (other.session, "is not lost"), (None, "a session called"),
        ):
            with pytest.raises(ServerError, match=words) as caught:
                other._ask({"op": "resume", "session": session})
            assert caught.value.code == "bad"
        assert other.infer(one)["frames"] == 1


def test_a_request_is_carried_out_once(server) -> None:
    seen = episode(7, 2)
    with connect(server) as client:
        first = client.infer(seen[0], id=4)
        again = client.infer(seen[0], id=4)
        assert np.array_equal(first["actions"], again["actions"])
        assert again["frames"] == client.info()["frames"] == 1
        assert client.infer(seen[1], id=5)["frames"] == 2
        with pytest.raises(ServerError, match="id is -1; give a whole number"):
            client.infer(seen[1], id=-1)


def test_a_server_that_keeps_none_says_so_at_once(model) -> None:
    with serving(robots(model)) as server:
        with pytest.raises(ServerError, match="start it with --keep-lost N, or leave out"):
            connect(server, reconnect=5)
        with connect(server) as client:
            with pytest.raises(ServerError, match="start it with --keep-lost N"):
                client.resume("abc")
            client.infer(episode(8, 1)[0])
            vanish(client, server)


def test_it_gives_up_when_its_time_is_over(model, tmp_path) -> None:
    with serving(robots(model), saved=tmp_path, keep_lost=1) as server:
        client = connect(server, reconnect=0.3)
        client.infer(episode(9, 1)[0])
    with pytest.raises(OSError):
        client.infer(episode(9, 1)[0])


@pytest.mark.parametrize("breaks", [vanish, answer_is_lost])
def test_frames_of_a_world_come_once_each(breaks, tmp_path) -> None:
    with serving(worlds(tiny_world(WORLDS["hybrid"])), saved=tmp_path, keep_lost=2) as server:
        with connect(server) as client:
            expected = [client.init(IMAGE), *client.step(keys="wl", chunks=3)]
            expected += client.step(motion=np.stack([np.eye(4)] * 4))
        with connect(server, reconnect=10) as client:
            found = [client.init(IMAGE)]
            for number, frames in enumerate(client.step(keys="wl", chunks=3)):
                found.append(frames)
                if number < 2:
                    breaks(client, server)
            found += client.step(motion=np.stack([np.eye(4)] * 4))
            assert client.info()["frames"] == 11
            assert [frames.tobytes() for frames in found] == [
                frames.tobytes() for frames in expected
            ]
            client._socket.send(pack({"op": "step", "keys": "w", "chunks": 2, "id": 1}))
            with pytest.raises(ServerError, match="2 chunks under one id"):
                client._receive()
