"""The arithmetic that a run is made with: threads, matrix products, determinism.

With "medium" precision, fp32 products go to oneDNN, which on CPUs without AMX computes in fp32 all
the same, and on some of them faster than the default.
With AMX, and on GPUs, it may be a real loss of precision: hence the probe.
"""

from __future__ import annotations

import contextlib
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from loci.errors import LociError

# fp32 products of this size differ from fp64 by 2e-7 to 6e-7; bf16 ones by 2e-3, TF32 by 3e-4.
_TOLERANCE = 5e-6
_PROBE = 256
# As /proc/cpuinfo spells them, on x86 and on ARM.
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or CUDA where there is one; LociError where it is not usable."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LociError(f"unknown device '{name}'; give cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise LociError(f"device '{name}' is not supported; give cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LociError("no CUDA device is usable here; leave --device out or give cpu")
    return device


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def device_name(device: torch.device) -> str:
    """What the device is called, for protocols."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """The CPU's extensions that matter here; empty where the system does not tell."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text(errors="replace").split()) if info.exists() else set()
    return [name for name in ("avx2", "avx512f", "asimd", *_BF16) if name in flags]


def pick_dtype(wish: str, device: torch.device) -> torch.dtype:
    """bf16 or fp32; "auto" is bf16 where the device computes in it.

    A CPU without bf16 instructions emulates them, a hundred times slower: warned about if wished.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = any(name in _BF16 for name in cpu_features())
    if wish == "bf16" and not native:
        message = f"{device_name(device)} only emulates bf16, very slowly; dtype 'auto' avoids it"
        warnings.warn(message, stacklevel=2)
    return torch.bfloat16 if wish == "bf16" or (wish == "auto" and native) else torch.float32


def product_error(device: torch.device) -> float:
    """Relative error (Frobenius) of an fp32 product under the present precision setting."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(_PROBE, _PROBE, generator=draw).to(device) for _ in range(2))
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).norm() / exact.norm())


@contextlib.contextmanager
def matmul_precision(wish: str, device: torch.device) -> Iterator[str]:
    """Set how fp32 matrices are multiplied, and restore it afterwards; yields what was set.

    wish: "exact" takes oneDNN's faster products only where they are fp32 to rounding, "fast"
    takes the fastest ones whatever they lose, "highest" leaves torch's own.
    """
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest" if wish == "highest" else "medium")
        if wish == "exact" and product_error(device) > _TOLERANCE:
            torch.set_float32_matmul_precision("highest")
        yield torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """On a CPU, only operations that give the same bits every time (a GPU makes no such promise).

    Torch would also fill fresh memory in this mode, at a price: nothing here reads it unwritten.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # pyrefly: ignore
    try:
        if device.type == "cpu":
            torch.utils.deterministic.fill_uninitialized_memory = False  # pyrefly: ignore
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # pyrefly: ignore


@contextlib.contextmanager
def thread_count(threads: int | None) -> Iterator[int]:
    """Use that many threads inside an operation; None leaves torch's choice."""
    before = torch.get_num_threads()
    if threads is not None and threads < 1:
        raise LociError(f"{threads} threads cannot work; give --threads 1 or more")
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
