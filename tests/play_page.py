"""The page of `loci play`, served by a thread, and what a person sees on it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from browser import FOCUS, Browser
from loci.serving.play.game import Game
from loci.serving.play.server import serve_page

SETTLED = "!busy && waiting.length === 0 && state !== null"
PIXELS = """(canvas => [...canvas.getContext('2d')
  .getImageData(0, 0, canvas.width, canvas.height).data].filter((_, n) => n % 4 < 3))"""


@contextmanager
def served(make: Callable[[], Game]) -> Iterator[str]:
    """The address of the page."""
    loop, started, found = asyncio.new_event_loop(), threading.Event(), []

    async def run() -> None:
        server = await serve_page(make, "127.0.0.1", 0)
        found.append((server, server.sockets[0].getsockname()[1]))
        started.set()
        await server.wait_closed()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(20)
    server, port = found[0]
    yield f"http://127.0.0.1:{port}/"
    loop.call_soon_threadsafe(server.close)
    thread.join(20)


def settle(window: Browser) -> None:
    for _ in range(600):
        if window.js(SETTLED):
            return
        time.sleep(0.05)
    raise AssertionError(said(window))


def said(window: Browser) -> str:
    return window.js("document.querySelector('#said').textContent")


def begun(window: Browser, address: str, **size: int | bool) -> None:
    window.open(address, **size)
    settle(window)


def shown(window: Browser, number: str) -> list[int]:
    return window.js(f"{PIXELS}(cards.get({number}).element.querySelector('.view'))")


def numbers(window: Browser) -> dict[str, str]:
    return window.js("""Object.fromEntries([...cards.get(1).element.querySelectorAll('dt')]
      .map(term => [term.textContent, term.nextSibling.textContent]))""")


def walked_by_tab(window: Browser) -> int:
    """How many things Tab goes to; each is in sight then, with a ring around it."""
    usable = window.js("""[...document.querySelectorAll(
      'button:not(:disabled), input, select, summary, [tabindex]')]
      .filter(one => one.checkVisibility()).length""")
    for _ in range(usable):
        window.press("Tab")
        focus = window.js(FOCUS)
        assert focus["ring"], focus
        assert focus["seen"], focus
    return usable
