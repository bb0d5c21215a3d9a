"""The socket and the pages beside it: who may connect, what is counted, how it ends."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as dial

from loci.errors import LociError
from loci.serving.client import ServerError, pack, unpack
from loci.serving.engine import Engine
from loci.serving.options import ServeOptions
from served import OPTIONS, connect, robots, serving
from tiny_policy import MEMORIES, PROPRIO, tiny_policy

SEEN = {"image": np.zeros((32, 32, 3), np.uint8), "state": np.zeros(PROPRIO, np.float32)}


@pytest.fixture(scope="module")
def model():
    return tiny_policy(MEMORIES["hybrid"])


def page(server, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_server_speaks_first_and_shows_its_pages(model) -> None:
    pages = {"/": ("text/html", b"<p>here</p>")}
    with serving(robots(model), pages=pages) as server:
        assert page(server, "/healthz") == (200, "OK\n")
        assert page(server, "/") == (200, "<p>here</p>")
        assert page(server, "/other")[0] == 404
        with dial(f"ws://127.0.0.1:{server.port}", compression=None) as socket:
            told = unpack(socket.recv(10))
            assert told["kind"] == "world-action-model"
            socket.send(pack(SEEN))
            assert unpack(socket.recv(10))["actions"].shape == (4, 5)
            socket.send("hello")
            assert socket.recv(10) == "bad: a text; send a message of msgpack"
            socket.send(b"\xc1")
            assert socket.recv(10).startswith("bad: no message of msgpack")
            socket.send(pack([1, 2]))
            assert socket.recv(10) == "bad: a request that is a list; send a map"
            shown = page(server, "/metrics")[1]
            assert 'loci_requests_total{op="infer",outcome="done"} 1.0' in shown
            assert "\nloci_sessions 1.0\n" in shown
            assert 'loci_stage_seconds_count{stage="observe"} 1.0' in shown
            held = float(shown.split("\nloci_held_bytes ")[1].split("\n")[0])
            assert held == server.engine.pool.bytes > 0


def test_a_key_is_asked_for_and_pages_from_elsewhere_stay_out(model) -> None:
    with serving(robots(model), api_key="secret") as server:
        address = f"ws://127.0.0.1:{server.port}"
        assert page(server, "/healthz")[0] == 200
        assert page(server, "/metrics")[0] == 401
        assert page(server, "/metrics", Authorization="Api-Key secret")[0] == 200
        for key in (None, "wrong"):
            with pytest.raises(Exception, match="401"):
                connect(server, api_key=key)
        with connect(server, api_key="secret") as client:
            client.infer(SEEN)
        with pytest.raises(Exception, match="403"):
            dial(address, additional_headers={
                "Origin": "http://elsewhere.example", "Authorization": "Api-Key secret"
            }).__enter__()
    with serving(robots(model)) as server:
        assert page(server, "/healthz", Host="elsewhere.example")[0] == 403
        assert page(server, "/healthz", Host=f"localhost:{server.port}")[0] == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": "0.0.0.0"}, "others can connect to 0.0.0.0; set LOCI_API_KEY"),
        ({"host": "robot.lab"}, "set LOCI_API_KEY"),
        ({"api_key": "two words"}, "use printable ASCII"),
        ({"certificate": "a.pem"}, "give both --certificate and --private-key"),
        ({"save_on_exit": True}, "give --sessions DIR"),
        ({"keep_lost": 2}, "nowhere to keep lost sessions; give --sessions DIR"),
        ({"keep_lost": -1}, "--keep-lost -1; give 0 or more"),
        ({"max_batch": 0}, "--max-batch 0; give 1 or more"),
        ({"memory": float("nan")}, "--memory nan; give a number"),
        ({"port": 70000}, "give 0 to 65535"),
        ({"temperature": 3.0}, "use 0 to 1"),
    ],
)
def test_settings_that_no_server_can_have_are_refused(changes, words) -> None:
    with pytest.raises(LociError, match=words):
        ServeOptions(**changes)
    assert ServeOptions(host="::1").loopback
    assert ServeOptions(host="0.0.0.0", api_key="k").api_key == "k"


def test_limits_of_sessions_of_rate_and_of_size(model) -> None:
    limits = {"max_sessions": 2, "max_message": 20_000, "rate": 0.001}
    with serving(robots(model), **limits) as server, connect(server) as one:
        with connect(server), pytest.raises(ServerError, match="all that are served") as caught:
            connect(server)
        assert caught.value.code == "limited"
        for _ in range(4):
            one.infer(SEEN)
        with pytest.raises(ServerError, match=r"more than 0.001 requests a second"):
            one.infer(SEEN)
        deadline = time.monotonic() + 10
        while len(server.engine.sessions) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        with connect(server) as other, pytest.raises(ConnectionClosed, match="1009"):
            other.infer({**SEEN, "image": np.zeros((96, 96, 3), np.uint8)})
        assert one.metadata["session"] in server.engine.sessions


def test_the_end_answers_what_waits_and_saves_sessions(model, tmp_path) -> None:
    with serving(robots(model), saved=tmp_path, save_on_exit=True) as server:
        clients = [connect(server) for _ in range(3)]
        found: list[object] = []
        hold, taken = threading.Event(), []
        run = server.engine.service.run

        def slow(calls):
            taken.extend(calls)
            hold.wait(10)
            run(calls)

        server.engine.service.run = slow
        threads = [
            threading.Thread(target=lambda one=one: found.append(one.infer(SEEN)["frames"]))
            for one in clients[:2]
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while len(taken) + server.engine.waiting < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        threading.Timer(0.2, hold.set).start()
    for thread in threads:
        thread.join(10)
    assert found == [1, 1]
    names = {path.stem for path in tmp_path.glob("*.safetensors")}
    assert names == {one.session for one in clients[:2]}  # the third had seen nothing
    with serving(robots(model), saved=tmp_path) as server, connect(server) as again:
        assert again.restore(clients[0].session)["frames"] == 1


def test_a_port_that_is_taken_and_a_certificate_that_is_none(model, tmp_path) -> None:
    (tmp_path / "a.pem").write_text("no certificate")
    with serving(robots(model)) as server:
        with pytest.raises(LociError, match=r"cannot listen on .*choose another --port"), serving(
            robots(model), port=server.port
        ):
            pass
        with pytest.raises(LociError, match="give PEM files"), serving(
            robots(model), certificate=tmp_path / "a.pem", private_key=tmp_path / "a.pem"
        ):
            pass
    blocked = tmp_path / "a.pem" / "sessions"
    with pytest.raises(LociError, match="cannot keep sessions in"):
        Engine(replace(OPTIONS, saved=blocked), robots(model))
