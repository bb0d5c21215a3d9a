"""The numbers of a run on their way to the log: kept on the device until they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Sums of each step's numbers since the last line of the log.

    Numbers stay on the device until `read`, which moves all of them at once: on a GPU every other
    way is a wait in each step. The sums are saved with the run's state, so that no line of the log
    depends on interruptions.
    """

    def __init__(self, count: int = 0, sums: dict[str, float] | None = None):
        self.count, self.sums = count, {} if sums is None else sums
        self._pending: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """The numbers of one step, scalars."""
        self._pending.append((step, values))

    def read(self, check: Callable[[int, dict[str, float]], None]) -> None:
        """Bring what is pending to the host. `check` sees each step's numbers, and may raise."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        flat = torch.stack([v.float() for _, values in pending for v in values.values()]).tolist()
        numbers = iter(flat)
        for step, values in pending:
            found = dict(zip(values, numbers, strict=False))
            check(step, found)
            self.count += 1
            for name, number in found.items():
                self.sums[name] = self.sums.get(name, 0.0) + number

    def line(self) -> dict[str, float]:
        """The means of all numbers that were read, and a fresh start."""
        means = {name: total / self.count for name, total in self.sums.items()}
        self.count, self.sums = 0, {}
        return means

    def state(self) -> list[Any]:
        """What a run's state keeps; `Meter(*state)` goes on."""
        return [self.count, self.sums]
