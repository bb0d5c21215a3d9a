"""A real browser, driven over a pipe by the Chrome DevTools Protocol: windows of any size, real
keys, what a person then sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import F_DUPFD, fcntl
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Of a key: its code, its number, and the text that it types.
KEYS = {
    "Tab": ("Tab", 9, ""), "Enter": ("Enter", 13, "\r"), " ": ("Space", 32, " "),
    "ArrowRight": ("ArrowRight", 39, ""), "ArrowLeft": ("ArrowLeft", 37, ""),
    "Backspace": ("Backspace", 8, ""), "n": ("KeyN", 78, "n"),
}
# Of what has the focus: whether a ring shows that, and whether it is in the window.
FOCUS = """(one => {
  const style = getComputedStyle(one), box = one.getBoundingClientRect();
  return {
    what: one.outerHTML.slice(0, 80),
    ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
    seen: box.bottom > 0 && box.top < innerHeight && box.width > 0,
  };
})(document.activeElement)"""
# How far the colour of the text in an element is from what is behind it, by WCAG 2.
CONTRAST = """(one => {
  const light = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = one;
  const clear = one => /, 0\\)$|transparent/.test(getComputedStyle(one).backgroundColor);
  while (clear(behind) && behind.parentElement) behind = behind.parentElement;
  const both = [light(getComputedStyle(one).color), light(getComputedStyle(behind).backgroundColor)]
    .sort((a, b) => b - a);
  return (both[0] + 0.05) / (both[1] + 0.05);
})"""


class Browser:
    """One window. What it was told and what it answers are lines of JSON, each ended by a NUL."""

    def __init__(self, read: int, write: int):
        self._answers, self._orders = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self._number, self._window = 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._window = attached["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **given: object) -> dict[str, Any]:
        """What the browser answers to a method of the protocol."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": given}
        if self._window:
            order["sessionId"] = self._window
        self._orders.write(json.dumps(order).encode() + b"\0")
        self._orders.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def open(
        self, page: Path | str, width: int = 1200, height: int = 900, dark: bool = False
    ) -> None:
        """Show a page, a file or an address, in a window of this size, as someone who likes it
        light or dark sees it, and who does not like things to move by themselves."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)
        likes = {"color-scheme": "dark" if dark else "light", "reduced-motion": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": f"prefers-{what}", "value": how} for what, how in likes.items()
        ])
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def js(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                          awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, shift: bool = False) -> None:
        """Press and release a key, as a keyboard does."""
        code, number, text = KEYS[key]
        of_key = {"key": key, "code": code, "windowsVirtualKeyCode": number,
                  "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **of_key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **of_key)

    def walk_to(self, wanted: str) -> None:
        """Press Tab until the element of a selector has the focus."""
        for _ in range(200):
            self.press("Tab")
            if self.js(f"document.activeElement === document.querySelector({json.dumps(wanted)})"):
                return
        raise AssertionError(f"no Tab leads to {wanted}")

    def close(self) -> None:
        self._window = ""
        self.call("Browser.close")
        self._orders.close()
        self._answers.close()

    def _next(self) -> dict[str, Any]:
        """The next answer or event."""
        line = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser ended"
            line += byte
        return json.loads(line)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser without a past, in a folder for its own files."""
    to_it, from_it = os.pipe(), os.pipe()
    # It reads from descriptor 3 and writes to 4.
    ends = [fcntl(number, F_DUPFD, 10) for number in (to_it[0], from_it[1])]
    start = "; ".join((
        "import os, sys", f"os.dup2({ends[0]}, 3)", f"os.dup2({ends[1]}, 4)",
        "os.execv(sys.argv[1], sys.argv[1:])",
    ))
    process = subprocess.Popen(
        [sys.executable, "-c", start, str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
         "--no-first-run", "--disable-background-networking", "--disable-sync",
         "--hide-scrollbars", f"--user-data-dir={profile}", "--remote-debugging-pipe"],
        pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    for number in (to_it[0], from_it[1], *ends):
        os.close(number)
    try:
        window = Browser(from_it[0], to_it[1])
        yield window
        window.close()
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
