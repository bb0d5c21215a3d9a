"""What is said of a run while it goes on."""

from __future__ import annotations

import time

# Smoothing of the loss shown; the log has the plain means.
SMOOTH = 0.95


class Pace:
    """Its loss, smoothed, and its samples a second."""

    def __init__(self) -> None:
        self.loss: float | None = None
        self.samples = 0
        self.began = time.monotonic()

    def after(self, loss: float, samples: int) -> str:
        """One step more, with this loss on this many samples."""
        self.loss = loss if self.loss is None else SMOOTH * self.loss + (1 - SMOOTH) * loss
        self.samples += samples
        rate = self.samples / max(time.monotonic() - self.began, 1e-9)
        return f"loss {self.loss:.4f}, {rate:,.0f} samples/s"
