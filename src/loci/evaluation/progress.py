"""What a person sees of an evaluation: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY = 15.0


class Watch:
    """Cases done out of all that are to do, on standard error."""

    def __init__(self, title: str, total: int):
        self.title, self.total, self.done, self.doing = title, total, 0, ""
        self.console = Console(stderr=True)
        self.began = self.spoken = time.monotonic()
        self.bar = Progress(
            TextColumn(title),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=4,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=total)

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
        """What is being worked on."""
        self.doing = doing
        self.bar.update(self.task, description=doing)

    def advance(self, cases: int = 1) -> None:
        """So many more cases are done."""
        self.done += cases
        self.bar.advance(self.task, cases)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.spoken >= LINE_EVERY:
            self.spoken = now
            left = (now - self.began) * (self.total - self.done) / max(self.done, 1)
            print(
                f"{self.title}: {self.done}/{self.total}, {self.doing}, {left:.0f} s left",
                file=sys.stderr, flush=True,
            )
