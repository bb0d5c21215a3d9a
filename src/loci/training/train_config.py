"""How a task is optimised: the settings of the trainer and the schedule of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Self

from loci.config import Config, added_field
from loci.errors import LociError


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """AdamW, warm-up, cosine decay, clipped gradients, averaged weights.

    steps: updates of the weights. lr: the highest learning rate, which falls to `final` times
    itself. muon: the learning rate of Muon for the matrices inside `blocks`, which then do without
    AdamW (None: AdamW everywhere). warmup: steps in which the rate rises. weight_decay: on matrices
    only. clip: largest norm of the gradient. spike: a step whose loss is above so many times its
    running average is left out (None: none is; see `spikes.py`). ema: decay of the average of the
    weights. accumulate: microbatches that a step computes one after the other, for less memory.
    dtype: bf16 is autocast, the weights stay fp32; auto is bf16 where the device computes in it.
    matmul: see `matmul_precision`. log_every: steps. save_every: seconds. extended: numbers of
    steps after which the run was finished before it was made longer.
    """

    steps: int
    lr: float = 1e-3
    muon: float | None = None
    warmup: int = 100
    final: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    spike: float | None = added_field(None)
    ema: float = 0.999
    seed: int = 0
    accumulate: int = added_field(1)
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    matmul: Literal["exact", "fast", "highest"] = "exact"
    log_every: int = 10
    save_every: float = 60.0
    extended: tuple[int, ...] = added_field(())

    def __post_init__(self) -> None:
        ends = (0, *self.extended, self.steps)
        bounds = {
            "steps": (self.steps >= 1, "1 or more"),
            "lr": (0 < self.lr < math.inf, "a number above 0"),
            "muon": (self.muon is None or 0 < self.muon < math.inf, "a number above 0, or None"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "final": (0 <= self.final <= 1, "0 to 1"),
            "betas": (all(0 <= b < 1 for b in self.betas), "two numbers from 0 up to below 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "clip": (self.clip > 0, "a number above 0"),
            "spike": (self.spike is None or self.spike > 1, "a number above 1, or None"),
            "ema": (0 <= self.ema < 1, "0 up to below 1"),
            "accumulate": (self.accumulate >= 1, "1 or more"),
            "log_every": (self.log_every >= 1, "1 or more"),
            "save_every": (self.save_every >= 0, "0 or more"),
            "extended": (
                all(a < b for a, b in pairwise(ends)),
                f"numbers of steps that rise, below {self.steps}",
            ),
        }
        for name, (sound, bound) in bounds.items():
            if not sound:
                raise LociError(f"TrainConfig.{name} cannot be {getattr(self, name)}; use {bound}")

    def shortened(self, steps: int) -> Self:
        """The same in at most so many steps, warming up in a tenth of them at most."""
        steps = min(self.steps, steps)
        return replace(self, steps=steps, warmup=min(self.warmup, steps // 10))

    def rate(self, step: int) -> float:
        """Learning rate of the step after `step` steps: a line up, then half a cosine down.

        A run that was extended goes on along the cosine of its new length. Its rate had fallen to
        `final` of that, and rises again in as many steps as at first; where `final` is 1, nothing
        shows that there was an end.
        """
        begun = max((end for end in self.extended if end <= step), default=0)
        warm = min(1.0, (step - begun + 1) / (self.warmup + 1))
        if begun:
            warm = self.final + (1 - self.final) * warm
        length = next((end for end in self.extended if end > step), self.steps)
        done = max(0, step - self.warmup) / max(1, length - self.warmup)
        return self.lr * warm * (self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2)
