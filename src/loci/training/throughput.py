"""What a person sees of a run while it goes on."""

from __future__ import annotations

import time

# Smoothing of the loss that is shown; the log has plain means.
SMOOTH = 0.95


class Throughput:
    """A run's smoothed loss and its samples a second."""

    def __init__(self) -> None:
        self.loss: float | None = None
        self.samples = 0
        self.began = time.monotonic()

    def step(self, samples: int) -> None:
        """One more step, on so many samples."""
        self.samples += samples

    def read(self, loss: float) -> None:
        """The loss of one more step, once it is known on the host."""
        self.loss = loss if self.loss is None else SMOOTH * self.loss + (1 - SMOOTH) * loss

    def text(self) -> str:
        """Both, for a progress bar."""
        rate = f"{self.samples / max(time.monotonic() - self.began, 1e-9):,.0f} samples/s"
        return rate if self.loss is None else f"loss {self.loss:.4f}, {rate}"
