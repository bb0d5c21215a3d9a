"""The page and its connection: files by HTTP, deeds and pictures by a WebSocket.

Messages are JSON; pictures are raw RGB in base64, which a canvas takes as it is. Everything that is
computed runs in one thread, so that games wait for each other and the page never does.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loci.errors import LociError
from loci.io.extras import extra
from loci.serving.log import log_failure
from loci.serving.pages import LOCAL, called, page, same_site
from loci.serving.play.game import Game
from loci.serving.play.scene import Shown
from loci.serving.server import QUIET
from loci.worlds.tabletop.tasks import ALL_TASKS

with extra("serve"):
    from websockets.asyncio.server import Server, ServerConnection, serve
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request, Response

FOLDER = Path(__file__).parent
# What there is to fetch, and what it is.
FILES = {
    "/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"), "/walk.js": ("walk.js", "text/javascript"),
    "/task.js": ("task.js", "text/javascript"),
}
SOCKET = "/play"
# A picture of one's own arrives in the size of the model's, so that nothing larger is wanted.
LARGEST = 1 << 20
POLICY = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:"


async def serve_page(make: Callable[[], Game], host: str, port: int) -> Server:
    """Serve the page; every connection plays a game of its own. Pages of other sites cannot
    connect."""
    worker = ThreadPoolExecutor(1, thread_name_prefix="play")

    async def play(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await _play(connection, make(), worker)

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        """A file of the page; None for its connection."""
        path = urlsplit(request.path).path
        if not same_site(request) or (host in LOCAL and not called(request)):
            return page(HTTPStatus.FORBIDDEN, "text/plain", b"pages from elsewhere may not\n")
        if path == SOCKET and "Upgrade" in request.headers:
            return None
        if path not in FILES:
            return page(HTTPStatus.NOT_FOUND, "text/plain", b"there is one page here: /\n")
        name, kind = FILES[path]
        return page(
            HTTPStatus.OK, f"{kind}; charset=utf-8", (FOLDER / name).read_bytes(),
            {"Content-Security-Policy": POLICY},
        )

    return await serve(
        play, host, port, process_request=answer, max_size=LARGEST, logger=QUIET,
    )


async def _play(connection: ServerConnection, game: Game, worker: ThreadPoolExecutor) -> None:
    """Answer one page after the other thing that is done on it."""
    loop = asyncio.get_running_loop()
    await connection.send(json.dumps({"names": game.names, "tasks": list(ALL_TASKS)}))
    async for message in connection:
        made: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        tell = partial(loop.call_soon_threadsafe, made.put_nowait)
        work = loop.run_in_executor(worker, _carry_out, game, message, tell)
        done = False
        while not done:
            answer = await made.get()
            done = "done" in answer
            await connection.send(json.dumps(answer))
        await work


def _carry_out(game: Game, message: str | bytes, tell: Callable[[dict[str, Any]], object]) -> None:
    """What a message asks for; the page is told piece by piece, and at the end where things stand
    or what was wrong."""
    try:
        for shown in game.do(_event(message)):
            tell(_shown(shown))
        tell(game.state() | {"done": True})
    except LociError as error:
        tell({"error": " ".join(str(error).split()), "done": True})
    except Exception as error:  # noqa: BLE001 (the page is told, and may begin anew)
        log_failure("failed", error)
        tell({"error": "this broke off; begin anew", "done": True})


def _event(message: str | bytes) -> dict[str, Any]:
    """What the page says was done; LociError for what no page says."""
    try:
        event = json.loads(message)
    except ValueError as error:
        raise LociError("no JSON; reload the page") from error
    if not isinstance(event, dict):
        raise LociError("nothing to do; reload the page")
    return event


def _shown(shown: Shown) -> dict[str, Any]:
    count, height, width, _ = shown.pictures.shape
    answer = {
        "number": shown.number, "whole": shown.whole, "count": count, "height": height,
        "width": width, "rgb": base64.b64encode(shown.pictures.contiguous().numpy()).decode(),
    }
    if shown.frames is not None:
        answer["frames"] = list(shown.frames)
    if shown.moment is not None:
        answer["times"] = {k: round(v, 1) for k, v in shown.moment.times.items()}
        answer["looked"] = {str(k): round(v, 4) for k, v in shown.moment.looked.items()}
    return answer
