"""The socket: openpi's protocol over WebSocket, and a few pages over HTTP on the same port.

The HTTP part is that of websockets' own server (`process_request`). There are three pages, without
a body to read or a path to route, and a second framework beside the one that carries all messages
would bring another loop, another way to end and another parser that strangers talk to.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from loci.errors import LociError
from loci.io.extras import extra
from loci.serving import protocol
from loci.serving.client.wire import WireError, pack, unpack
from loci.serving.engine import Engine
from loci.serving.log import log, log_failure
from loci.serving.options import ServeOptions
from loci.serving.pages import called, page, same_site
from loci.serving.pool import Stream
from loci.serving.protocol import Refusal, refused
from loci.serving.service import Answer, Call

with extra("serve"):
    from websockets.asyncio.server import Server as Listener
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
    from websockets.frames import CloseCode
    from websockets.http11 import Request, Response

# It tells of every connection, and of every stranger who does not speak its protocol.
QUIET = logging.getLogger("loci.serving.websockets")
QUIET.setLevel(logging.CRITICAL)
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
# Requests of a session that may come at once, where their rate is limited.
BURST = 4
# How long slow clients are waited for when the server ends.
SECONDS_TO_LEAVE = 10.0


class Server:
    """An engine's sessions, a connection each.

    pages: further pages, path -> (content type, bytes); they may connect to the server that they
    come from. Use it as an asynchronous context; it listens inside. `port` is then where.
    """

    def __init__(self, engine: Engine, pages: Mapping[str, tuple[str, bytes]] | None = None):
        self.engine, self.options, self.pages = engine, engine.options, dict(pages or {})
        self.metadata = engine.service.metadata()
        self.port = engine.options.port
        self._listener: Listener | None = None
        self._conversations: set[Conversation] = set()

    async def __aenter__(self) -> Server:
        options = self.options
        try:
            self._listener = await serve(
                self._connected, options.host, options.port, compression=None,
                max_size=options.max_message, max_queue=2, ssl=_tls(options),
                process_request=self._requested, server_header="loci",
                logger=QUIET,
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise LociError(
                f"cannot listen on {options.host}:{options.port}: {reason}; choose another --port"
            ) from error
        self.port = next(iter(self._listener.sockets)).getsockname()[1]
        log("listening", host=options.host, port=self.port, model=self.metadata["model"],
            slots=self.engine.pool.memory.batch)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Answer what waits, save sessions where that was asked for, and close all connections."""
        assert self._listener is not None
        self._listener.close(close_connections=False)
        saved = await self.engine.shut_down()
        # The last answers leave before the connections close.
        answers = [one.idle.wait() for one in self._conversations]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*answers), SECONDS_TO_LEAVE)
        await asyncio.gather(
            *(one.close(CloseCode.GOING_AWAY, "the server ends")
              for one in list(self._listener.connections)),
            return_exceptions=True,
        )
        await self._listener.wait_closed()
        log("ended", saved=saved)

    def _requested(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a page; None lets a client connect."""
        path = urlsplit(request.path).path
        if not self._from_here(request):
            return page(http.HTTPStatus.FORBIDDEN, "text/plain", b"pages from elsewhere may not\n")
        connects = "Upgrade" in request.headers
        if path == "/healthz":
            return page(http.HTTPStatus.OK, "text/plain", b"OK\n")
        if path in self.pages and not connects:
            return page(http.HTTPStatus.OK, *self.pages[path])
        if not self._allowed(request):
            return page(http.HTTPStatus.UNAUTHORIZED, "text/plain",
                         b"give the header 'Authorization: Api-Key KEY'\n")
        if connects:
            return None
        if path == "/metrics":
            return page(http.HTTPStatus.OK, PROMETHEUS, self.engine.metrics.text())
        return page(http.HTTPStatus.NOT_FOUND, "text/plain", b"no such page\n")

    def _allowed(self, request: Request) -> bool:
        """Whether a client knows the key, where there is one."""
        key = self.options.api_key
        given = request.headers.get_all("Authorization")
        expected = f"Api-Key {key}".encode()
        return key is None or (
            len(given) == 1 and hmac.compare_digest(given[0].encode("utf-8", "replace"), expected)
        )

    def _from_here(self, request: Request) -> bool:
        """Whether no page of another site asks. Without a key, names that lead here from elsewhere
        do not count either."""
        keyed = self.options.api_key is not None
        return same_site(request) and (keyed or called(request, self.options.host))

    async def _connected(self, socket: ServerConnection) -> None:
        """A connection is a session, from here to its end."""
        try:
            stream = self.engine.open()
        except LociError as error:
            await socket.send(refused(error))
            await socket.close(CloseCode.TRY_AGAIN_LATER, "no room")
            return
        log("opened", session=stream.name, sessions=len(self.engine.sessions))
        began = time.monotonic()
        conversation = Conversation(self.engine, socket, stream, self._free)
        self._conversations.add(conversation)
        lost = False
        try:
            await socket.send(pack(self.metadata | {"session": stream.name}))
            await conversation.run()
        except ConnectionClosed as error:
            lost = not isinstance(error, ConnectionClosedOK)
        finally:
            kept = await asyncio.shield(self._forget(stream, lost))
            self._conversations.discard(conversation)
            conversation.over.set()
            log("closed", session=stream.name, requests=conversation.requests, lost=lost,
                kept=kept, seconds=round(time.monotonic() - began, 3))

    async def _forget(self, stream: Stream, lost: bool) -> bool:
        """Close a session; whether it is kept."""
        try:
            return await self.engine.close(stream, lost)
        except Refusal:
            self.engine.sessions.pop(stream.name, None)  # the engine has ended
            return False

    async def _free(self, name: str) -> None:
        """End the connection of a session whose client has come back before it was missed."""
        found = (one for one in self._conversations if one.stream.name == name)
        conversation = next(found, None)
        if conversation is not None:
            conversation.socket.transport.abort()
            await conversation.over.wait()


class Conversation:
    """The requests of one connection, one after the other. free: ends the connection of a session,
    by its name."""

    def __init__(
        self, engine: Engine, socket: ServerConnection, stream: Stream,
        free: Callable[[str], Awaitable[None]],
    ):
        self.engine, self.socket, self.stream, self.free = engine, socket, stream, free
        self.requests = 0
        self.idle = asyncio.Event()  # no request is being answered
        self.idle.set()
        self.over = asyncio.Event()  # the session is closed
        self._left, self._since = float(BURST), time.monotonic()
        self._took: float | None = None

    async def run(self) -> None:
        """Until the connection closes."""
        closed = asyncio.ensure_future(self.socket.wait_closed())
        try:
            async for data in self.socket:
                began = time.monotonic()
                self.requests += 1
                self.idle.clear()
                try:
                    await self._answer(data, began, closed)
                except LociError as error:
                    await self._send(refused(error))
                except ConnectionClosed:
                    raise
                except Exception as error:  # noqa: BLE001 (the client is told, the server goes on)
                    log_failure("failed", error, session=self.stream.name)
                    await self._send("failed: an error in the server; its log says more")
                self._took = time.monotonic() - began
                self.idle.set()
        finally:
            self.idle.set()
            closed.cancel()

    async def _answer(
        self, data: str | bytes, began: float, closed: asyncio.Future[None]
    ) -> None:
        self._check_rate(began)
        self.engine.metrics.received.inc(len(data))
        if isinstance(data, str):
            raise LociError("a text; send a message of msgpack")
        message, calls = await asyncio.to_thread(self._read, data)
        until = protocol.deadline(message)
        for call in calls:
            asked = asyncio.ensure_future(
                self._carried_out(call, None if until is None else began + until)
            )
            await asyncio.wait({asked, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                # Nobody waits for the answer any more: what has not begun will not run.
                asked.cancel()
                return
            answer = asked.result()
            await self._send(pack(answer | self._timing(call)))

    async def _carried_out(self, call: Call, until: float | None) -> Answer:
        if call.op == "resume":
            await self.free(call.given)
        return await self.engine.ask(call, until)

    def _read(self, data: bytes) -> tuple[protocol.Message, list[Call]]:
        try:
            message = protocol.checked(unpack(data))
        except WireError as error:
            raise LociError(str(error)) from error
        return message, self.engine.read(self.stream, message)

    def _timing(self, call: Call) -> dict[str, Any]:
        """Milliseconds, under openpi's names: of the whole, and of the model."""
        server = dict(call.times)
        if self._took is not None:
            server["prev_total_ms"] = 1000 * self._took
        model = sum(
            took for stage, took in call.times.items() if stage not in ("queue_ms", "infer_ms")
        )
        return {"server_timing": server, "policy_timing": {"infer_ms": model}}

    async def _send(self, answer: str | bytes) -> None:
        self.engine.metrics.sent.inc(len(answer))
        await self.socket.send(answer)

    def _check_rate(self, now: float) -> None:
        """Refusal for more requests than a session may make."""
        rate = self.engine.options.rate
        if rate is None:
            return
        self._left = min(float(BURST), self._left + rate * (now - self._since))
        self._since = now
        if self._left < 1:
            raise Refusal("limited", f"more than {rate:g} requests a second; ask less often")
        self._left -= 1


def _tls(options: ServeOptions) -> ssl.SSLContext | None:
    """The server's certificate, where it has one; LociError for files that hold none."""
    if options.certificate is None or options.private_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.certificate, options.private_key)
    except (OSError, ssl.SSLError) as error:
        raise LociError(
            f"no certificate in {options.certificate} and {options.private_key}: {error}; give "
            "PEM files"
        ) from error
    return context
