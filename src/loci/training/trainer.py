"""The training loop: one for every task, the same result however often it is interrupted.

Batch and noise of a step are functions of (seed, step) alone, so a state is the weights, the
optimizer, their average and the step. A run that was killed and resumed ends in the same weights,
bit for bit, as one that was left alone (on a CPU, with the same threads and versions).
Source: ours.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from loci.config import Config
from loci.errors import LociError
from loci.io.checkpoint import commit, digest, load_checkpoint, load_into, save_checkpoint
from loci.io.progress import Progress
from loci.io.user_code import describe_sources, source_files
from loci.training.ema import Ema
from loci.training.folder import RunFolder
from loci.training.microbatches import Parts
from loci.training.muon import build_optimizer
from loci.training.numerics import (
    device_name,
    matmul_precision,
    pick_device,
    pick_dtype,
    reproducible,
    thread_count,
)
from loci.training.throughput import Pace

STATE = "training-state"


class Task(Protocol):
    """What is learnt: a module, its data and its loss."""

    @property
    def module(self) -> nn.Module:
        """The module to train. Parameters that need no gradient stay as they are."""
        ...

    def batch(self, step: int) -> dict[str, Tensor]:
        """All of one step, noise included, as tensors of first dimension B: a pure function of
        (seed, step)."""
        ...

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """A scalar to minimise, and metrics for the log: means over the samples, nothing random,
        so that parts of a batch may be computed side by side."""
        ...


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and its state is saved."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How a task is optimised: AdamW, warm-up, cosine decay, clipped gradients, averaged weights.

    lr falls to `final` times itself. muon: the learning rate of Muon for the matrices inside
    `blocks`, which then do without AdamW (None: AdamW everywhere). weight_decay: on matrices
    only. clip: largest norm of the gradient. ema: decay of the average. dtype: bf16 is autocast,
    the weights stay fp32; auto is bf16 where the device computes in it. matmul: see
    `matmul_precision`. log_every: steps. save_every: seconds.
    """

    steps: int
    lr: float = 1e-3
    muon: float | None = None
    warmup: int = 100
    final: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    matmul: Literal["exact", "fast", "highest"] = "exact"
    log_every: int = 10
    save_every: float = 60.0

    def __post_init__(self) -> None:
        bounds = {
            "steps": self.steps >= 1,
            "lr": self.lr > 0,
            "muon": self.muon is None or self.muon > 0,
            "warmup": self.warmup >= 0,
            "final": 0 <= self.final <= 1,
            "betas": all(0 <= b < 1 for b in self.betas),
            "weight_decay": self.weight_decay >= 0,
            "clip": self.clip > 0,
            "ema": 0 <= self.ema < 1,
            "log_every": self.log_every >= 1,
            "save_every": self.save_every >= 0,
        }
        for name, sound in bounds.items():
            if not sound:
                value = getattr(self, name)
                raise LociError(f"TrainConfig.{name} cannot be {value}; see its docstring")

    def rate(self, step: int) -> float:
        """Learning rate of the step after `step` steps."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * warm * (self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True)
class Summary:
    """How a finished run went. `loss`: mean of the last logged steps; `weights`: their digest."""

    steps: int
    minutes: float
    loss: float
    weights: str
    protocol: dict[str, Any]

    def notes(self) -> dict[str, Any]:
        """For the checkpoint's metadata."""
        return {
            "steps": self.steps, "minutes": round(self.minutes, 2), "loss": self.loss,
            "protocol": self.protocol,
        }


def train(
    task: Task,
    config: TrainConfig,
    out: str | Path,
    resume: bool = False,
    threads: int | None = None,
    device: str | None = None,
) -> Summary:
    """Train `task` in the folder `out`; afterwards its module holds the averaged weights.

    Raises LociError for a folder that holds another run, a loss that is no number, a full disk;
    `Stopped` after Ctrl-C or SIGTERM, with the state saved.
    """
    return fit(task, config, RunFolder.open(out, config, resume), threads, device)


def fit(
    task: Task,
    config: TrainConfig,
    folder: RunFolder,
    threads: int | None = None,
    device: str | None = None,
) -> Summary:
    """`train` in a folder that was opened before, maybe under settings that include `config`."""
    place = pick_device(device)
    with (
        thread_count(threads) as count,
        matmul_precision(config.matmul, place) as matmul,
        reproducible(place),
    ):
        dtype = pick_dtype(config.dtype, place)
        protocol = {
            "config": folder.settings.hash(), "commit": commit(), "device": device_name(place),
            "threads": count, "dtype": "bf16" if dtype == torch.bfloat16 else "fp32",
            "matmul": matmul, "seed": config.seed,
            "torch": torch.__version__, "python": platform.python_version(),
            **source_files(folder.settings),
        }
        with Parts(count if place.type == "cpu" else 1) as parts:
            return _Run(task, config, folder, place, protocol, parts).finish()


@dataclass
class _Window:
    """Sums since the last line of the log; saved with the state, so that no line depends on it."""

    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.sums.items()}


class _Run:
    """One run: what changes from step to step, and its way to the disk and back."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        folder: RunFolder,
        device: torch.device,
        protocol: dict[str, Any],
        parts: Parts,
    ):
        self.parts = parts
        self.task, self.config, self.folder, self.device = task, config, folder, device
        self.module = task.module.to(device).train()
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        if not self.trained:
            raise LociError("the task has no parameters that need a gradient; nothing to train")
        protocol["parameters"] = sum(p.numel() for p in self.trained)
        self.protocol = protocol
        self.optimizer = build_optimizer(self.module, config)
        self.ema = Ema(self.module, config.ema)
        self.step = 0
        self.seconds = 0.0
        self.window = _Window()
        self._restore()

    def finish(self) -> Summary:
        """Make the steps that are left, leave the averaged weights in the module."""
        last = next((line for line in self.folder.lines() if line.get("event") == "end"), None)
        if last is None:
            self._steps()
        self.ema.copy_to_module()
        self.module.eval()
        weights = digest(dict(self.module.state_dict()))
        losses = [line["loss"] for line in self.folder.lines() if "loss" in line]
        if last is None:
            seconds = round(self.seconds, 3)
            self.folder.log(
                {"event": "end", "step": self.step, "seconds": seconds, "weights": weights}
            )
        loss = losses[-1] if losses else math.nan
        return Summary(self.step, self.seconds / 60, loss, weights, self.protocol)

    def _steps(self) -> None:
        event = "resume" if self.step else "start"
        if self.step:
            self._compare()
        self.folder.log({"event": event, "step": self.step, **self.protocol})
        began = time.monotonic() - self.seconds
        saved = time.monotonic()
        title, pace = self.folder.path.name, Pace()
        with _stop_requests() as stop, Progress(title, self.config.steps, self.step) as progress:
            while self.step < self.config.steps:
                samples, values = self._one()
                self.seconds = time.monotonic() - began
                self.window.add(values)
                progress.advance(1, pace.after(values["loss"], samples))
                if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                    self._log()
                if stop.is_set() or time.monotonic() - saved >= self.config.save_every:
                    self.save()
                    saved = time.monotonic()
                if stop.is_set():
                    raise Stopped(
                        f"stopped at step {self.step} of {self.config.steps}, saved in "
                        f"{self.folder.path}; continue with --resume"
                    )
        self.save()

    def _compare(self) -> None:
        """Warn where the run goes on under other conditions: the same bits are not promised."""
        start = next(iter(self.folder.lines()), {})
        for name in ("device", "threads", "dtype", "matmul", "torch", "commit"):
            if start.get(name) != self.protocol[name]:
                warnings.warn(
                    f"resuming with {name} {self.protocol[name]}, begun with {start.get(name)}: "
                    "the weights may differ in their last bits", stacklevel=2,
                )

    def _one(self) -> tuple[int, dict[str, float]]:
        """One step of the optimizer: its number of samples, and what the log says of it."""
        config = self.config
        drawn = self.task.batch(self.step)
        batch = {k: v.to(self.device, non_blocking=True) for k, v in drawn.items()}
        mixed = self.protocol["dtype"] == "bf16"

        def loss_of(part: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
                return self.task.loss(part)

        loss, metrics = self.parts.backward(loss_of, batch, self.trained)
        norm = nn.utils.clip_grad_norm_(self.trained, config.clip)
        # Both in one transfer: on a GPU each is a wait.
        value, size = torch.stack([loss.float(), norm.detach().float()]).tolist()
        if not (math.isfinite(value) and math.isfinite(size)):
            self.save()
            raise LociError(
                f"step {self.step}: loss {value}, gradient norm {size}; the weights before it are "
                f"in {self.folder.state_path}: lower lr, or look at this batch"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(self.step) * group["scale"]
        self.optimizer.step()
        self.ema.update(self.step)
        self.step += 1
        samples = next((len(v) for v in batch.values() if v.dim()), 1)
        own = {"loss": value, "norm": size}
        return samples, own | {k: float(v) for k, v in metrics.items() if k not in own}

    def _log(self) -> None:
        line: dict[str, Any] = {"step": self.step, **self.window.means()}
        line |= {"lr": self.config.rate(self.step - 1), "seconds": round(self.seconds, 3)}
        self.folder.log(line)
        self.window = _Window()

    def save(self) -> None:
        """Write the whole state, atomically. The log reaches the disk first."""
        self.folder.sync()
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.tensors.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        save_checkpoint(
            self.folder.state_path, STATE, self.folder.settings, tensors, dtype=None,
            step=self.step, seconds=self.seconds, window=[self.window.count, self.window.sums],
        )

    def _restore(self) -> None:
        """Take up the saved state, if there is one, and forget what the log says beyond it."""
        path = self.folder.state_path
        if not path.exists():
            self.folder.rewind(-1)
            return
        config, tensors, metadata = load_checkpoint(path, STATE)
        if config != json.loads(self.folder.settings.to_json()):
            raise LociError(f"{path} is from other settings; choose another folder")
        began = next(iter(self.folder.lines()), {})
        if began.get("files") != self.protocol.get("files"):
            raise LociError(
                f"{self.folder.path} holds a run begun with {describe_sources(began)}, now it is "
                f"{describe_sources(self.protocol)}; bring that file back or choose another folder"
            )
        parts: dict[str, dict[str, Tensor]] = {"module": {}, "ema": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        load_into(self.module, parts["module"], path)
        if parts["ema"].keys() != self.ema.tensors.keys():
            raise LociError(f"{path} averages other weights; choose another folder")
        self.ema.load(parts["ema"])
        self._restore_optimizer(parts["optimizer"])
        notes = metadata["training"]
        self.step, self.seconds = notes["step"], notes["seconds"]
        self.window = _Window(notes["window"][0], dict(notes["window"][1]))
        self.folder.rewind(self.step)

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        order = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, key = name.partition(".")
            parameter = order[int(index)]
            if tensor.shape == parameter.shape:
                # The fused kernel walks through memory: its averages must lie as the weights do
                # (channels last, for instance), and a file knows only one order.
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second acts at once, as usual."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        for name, handler in before.items():
            signal.signal(name, handler)

    try:
        for name in before:
            signal.signal(name, ask)
        yield asked
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
