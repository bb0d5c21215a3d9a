"""What a person sees of long work: a bar on a terminal, or else a line of the log now and then.

Only where the log is shown at level INFO, as the commands show it: a program that uses the library
sees nothing unless it asks for it, `logging.basicConfig(level=logging.INFO)`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from rich import progress as rich
from rich.console import Console

log = logging.getLogger(__name__)
LINE_EVERY = 30.0  # seconds
Item = TypeVar("Item")


class Progress:
    """Progress of `total` items, `done` of which were made before, on standard error."""

    def __init__(self, title: str, total: int, done: int = 0):
        self.title, self.total, self.first, self.done, self.doing = title, total, done, done, ""
        self.console = Console(stderr=True)
        self.began = self.spoken = time.monotonic()
        self.bar = rich.Progress(
            rich.TextColumn("{task.fields[title]}", markup=False),
            rich.BarColumn(bar_width=None),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.description}", markup=False),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=4,
            speed_estimate_period=60,
            disable=not (self.console.is_terminal and log.isEnabledFor(logging.INFO)),
        )
        self.task = self.bar.add_task("", total=total, completed=done, title=title)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def now(self, doing: str) -> None:
        """Show what is being worked on."""
        self.doing = doing
        self.bar.update(self.task, description=doing)

    def advance(self, count: int = 1, doing: str = "") -> None:
        """Count `count` more items as done, and show `doing` where it is given."""
        if doing:
            self.now(doing)
        self.done += count
        self.bar.advance(self.task, count)
        now = time.monotonic()
        if self.bar.disable and now - self.spoken >= LINE_EVERY:
            self.spoken = now
            left = (now - self.began) * (self.total - self.done) / max(self.done - self.first, 1)
            time_left = f"{left / 60:.0f} min left" if left >= 100 else f"{left:.0f} s left"
            said = [f"{self.title}: {self.done}/{self.total}", self.doing, time_left]
            log.info("%s", ", ".join(filter(None, said)))


def tracked(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """The same items, `total` of them, with their progress shown."""
    with Progress(title, total) as progress:
        for item in items:
            yield item
            progress.advance()


def announce(what: str, count: int, each: float, size: int, folder: str | Path) -> None:
    """Say before long work how long it takes and where its results are kept.

    each: seconds for one of `count`, as the first one took; size: bytes of one.
    """
    seconds, room = count * each, count * size / 1e6
    long = f"{seconds / 60:.0f} min" if seconds >= 100 else f"{max(1, round(seconds))} s"
    large = f"{room / 1000:.1f} GB" if room >= 100 else f"{room:.0f} MB"
    log.info(
        "%s first: about %s; %s are kept in %s (LOCI_CACHE names another place)",
        what, long, large, folder,
    )
