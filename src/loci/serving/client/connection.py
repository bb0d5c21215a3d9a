"""A connection to `loci serve`, which is one robot's session, or one world's.

    client = Client("ws://127.0.0.1:8000")
    client.reset(instruction="fold the shirt", seed=7)
    actions = client.infer({"images": {"head": picture}, "state": joints})["actions"]
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from loci.serving.client.wire import pack, unpack

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11; robots may have 3.10


class ServerError(RuntimeError):
    """The server's answer to a request that it did not carry out: one line.

    code: "bad" (the request; the session is as before), "late" (it waited beyond its deadline),
    "limited" (too many requests), "closing" (the server ends), "failed" (the server's own fault).
    """

    def __init__(self, text: str):
        code, _, line = text.partition(": ")
        super().__init__(line or text)
        self.code = code if line else "failed"


class Client:
    """One session. Requests are answered in their order; a client is for one thread.

    address: "ws://HOST:PORT", or wss:// (`tls`: the context that trusts the server's certificate).
    timeout: seconds to wait for an answer (None: for ever). reconnect: where the connection breaks,
    an answer does not come in time or the server ends, seconds in which to connect again and go on
    with the same session; the request under way is then answered too, and was carried out once. The
    server has to keep lost sessions for it (`loci serve --keep-lost`). Raises OSError where nobody
    answers, and ServerError where sessions cannot be resumed.
    """

    def __init__(
        self, address: str = "ws://127.0.0.1:8000", api_key: str | None = None,
        timeout: float | None = 60.0, tls: ssl.SSLContext | None = None, reconnect: float = 0.0,
    ):
        self.timeout, self.reconnect = timeout, reconnect
        self._dial = partial(
            connect, address, compression=None, max_size=None, ssl=tls, open_timeout=timeout,
            additional_headers={"Authorization": f"Api-Key {api_key}"} if api_key else None,
        )
        # Other processes may have gone on with a session before: their numbers are others.
        self._number = secrets.randbits(48)
        self._ends = contextlib.ExitStack()
        self.metadata: dict[str, Any] = self._connect()
        self.session: str = self.metadata["session"]
        if reconnect and not self.metadata["resumes"]:
            self.close()
            raise ServerError("bad: this server keeps no lost sessions; start it with "
                              "--keep-lost N, or leave out reconnect")

    def infer(self, observation: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Commit an observation and answer with the next chunk: "actions" (n, A) in the robot's
        units, "server_timing" and "policy_timing" in milliseconds.

        observation: "images" {camera: uint8 (H, W, 3) or (3, H, W)} and "state" (P,). more:
        `executed` (n, A), where the memory keeps actions; `deadline_ms`; `reset` True.
        """
        return self._ask({**observation, **more})

    def observe(self, observation: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Commit an observation without acting."""
        return self._ask({**observation, **more, "op": "observe"})

    def act(self, **more: Any) -> dict[str, Any]:
        """The next chunk for what was seen already."""
        return self._ask({**more, "op": "act"})

    def reset(
        self, instruction: str | None = None, seed: int | None = None, episode: int | None = None
    ) -> dict[str, Any]:
        """Forget the episode and begin the next one."""
        given = {"instruction": instruction, "seed": seed, "episode": episode}
        return self._ask({"op": "reset", **{k: v for k, v in given.items() if v is not None}})

    def tell(self, instruction: str) -> dict[str, Any]:
        """From here on, another instruction; what was seen stays."""
        return self._ask({"op": "instruction", "instruction": instruction})

    def seed(self, seed: int, episode: int = 0) -> dict[str, Any]:
        """The noise of what comes belongs to a seed, and to the number of an episode."""
        return self._ask({"op": "seed", "seed": seed, "episode": episode})

    def save(self, name: str, replace: bool = False) -> dict[str, Any]:
        """Keep the session under a name, on the server's disk."""
        return self._ask({"op": "save", "name": name, "replace": replace})

    def restore(self, name: str) -> dict[str, Any]:
        """Go on from a session that was saved, here or by another process."""
        return self._ask({"op": "restore", "name": name})

    def fork(self, session: str) -> dict[str, Any]:
        """Go on from where another living session is now; that one goes its own way."""
        return self._ask({"op": "fork", "session": session})

    def resume(self, session: str) -> dict[str, Any]:
        """Become a session that was lost, under its name: its connection broke, here or at another
        process, or the robot's program ended without `close`."""
        answer = self._ask({"op": "resume", "session": session})
        self.session = session
        return answer

    def info(self) -> dict[str, Any]:
        """What the session is: "frames", "bytes", "seed", "episode"."""
        return self._ask({"op": "info"})

    def init(
        self, image: np.ndarray, prompt: str | None = None, depth: np.ndarray | None = None,
        pose: np.ndarray | None = None,
    ) -> np.ndarray:
        """Begin a world with a picture, uint8 (H, W, 3); returns it as the world shows it, (1, H,
        W, 3). depth (H, W) in metres, where the memory asks for it; pose (4, 4) of its camera."""
        given = {"prompt": prompt, "depth": depth, "pose": pose}
        more = {k: v for k, v in given.items() if v is not None}
        return self._ask({"op": "init", "image": image, **more})["frames"]

    def step(self, **motion: Any) -> Iterator[np.ndarray]:
        """Frames uint8 (n, H, W, 3), chunk by chunk, as they are finished.

        Give one of: poses (N, 4, 4), camera to world; motion (N, 4, 4), each relative to the camera
        before it; keys, a text of those in `metadata["keys"]` that are held, with `chunks` (1).
        """
        for part in self._chunks(motion) if self.reconnect else [motion]:
            answer = self._ask({"op": "step", **part})
            yield answer["frames"]
            while not answer["last"]:
                answer = self._receive()
                yield answer["frames"]

    def close(self) -> None:
        """End the session. Its name is worth nothing any more."""
        self._ends.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(self) -> dict[str, Any]:
        """What the server says first."""
        self._socket = self._ends.enter_context(self._dial())
        try:
            return self._receive()
        except BaseException:
            self._ends.close()
            raise

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if not self.reconnect:
            return self._exchange(pack(message))
        self._number += 1
        data = pack({**message, "id": self._number})
        try:
            return self._exchange(data)
        except (OSError, WebSocketException, ServerError) as error:
            if isinstance(error, ServerError) and error.code != "closing":
                raise
            return self._ask_again(data)

    def _ask_again(self, data: bytes) -> dict[str, Any]:
        """The answer to a request whose connection is lost, by others of the same session."""
        until, pause = time.monotonic() + self.reconnect, 0.05
        while True:
            self._drop()
            resumed = False
            try:
                self._connect()
                self._exchange(pack({"op": "resume", "session": self.session}))
                resumed = True
                return self._exchange(data)
            except (OSError, WebSocketException, ServerError) as error:
                refused = isinstance(error, ServerError) and error.code != "closing"
                # A server that has not missed the old connection yet has no lost session.
                if (refused and resumed) or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _drop(self) -> None:
        """Leave the connection without a goodbye, which would end the session."""
        with contextlib.suppress(OSError):
            self._socket.socket.shutdown(socket.SHUT_RDWR)
        self._ends.close()

    def _chunks(self, motion: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The same way as requests of one chunk each, so that each is carried out once."""
        span, chunks = self.metadata["chunk"], motion.get("chunks")
        if "keys" in motion and isinstance(chunks, int) and chunks > 1:
            yield from [{**motion, "chunks": 1}] * chunks
            return
        long = next((name for name in ("poses", "motion") if np.ndim(motion.get(name)) == 3), None)
        if long is None or len(motion[long]) % span or not len(motion[long]):
            yield motion  # what is no way is the server's to refuse
            return
        for start in range(0, len(motion[long]), span):
            yield {**motion, long: motion[long][start : start + span]}

    def _exchange(self, data: bytes) -> dict[str, Any]:
        self._socket.send(data)
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        answer = self._socket.recv(self.timeout)
        if isinstance(answer, str):
            raise ServerError(answer)
        return unpack(answer)
