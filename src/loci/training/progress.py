"""What a person sees of a run: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

_LINE_EVERY = 30.0
# Smoothing of the loss shown; the log has the plain means.
_SMOOTH = 0.95


class Progress:
    """Steps done, loss, samples a second and time left, on standard error."""

    def __init__(self, title: str, done: int, total: int):
        self.title, self.first, self.total = title, done, total
        self.console = Console(stderr=True)
        self.loss: float | None = None
        self.samples = 0
        self.began = self.spoken = time.monotonic()
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f} · {task.fields[rate]:,.0f} samples/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=2,
            speed_estimate_period=60,
            disable=not self.console.is_terminal,
        )
        self.row = self.bar.add_task(title, total=total, completed=done, loss=0.0, rate=0.0)

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

    def advance(self, done: int, loss: float, samples: int) -> None:
        """`done` steps are made, the last with this loss on this many samples."""
        self.samples += samples
        self.loss = loss if self.loss is None else _SMOOTH * self.loss + (1 - _SMOOTH) * loss
        now = time.monotonic()
        took = max(now - self.began, 1e-9)
        rate = self.samples / took
        self.bar.update(self.row, completed=done, loss=self.loss, rate=rate)
        if not self.console.is_terminal and now - self.spoken >= _LINE_EVERY:
            self.spoken = now
            left = (self.total - done) * took / max(done - self.first, 1)
            print(
                f"{self.title}: {done}/{self.total}, loss {self.loss:.4f}, "
                f"{rate:,.0f} samples/s, {left / 60:.0f} min left",
                file=sys.stderr, flush=True,
            )
