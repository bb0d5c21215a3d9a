"""What every benchmark saves: figures, and the protocol that they were measured by."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loci.config import Config, settings_hash
from loci.io.files import atomic_write, check_file
from loci.io.json_files import to_json
from loci.study.estimates import spread as spread_of
from loci.study.provenance import made_with
from loci.training.numerics import cpu_features

# Options that change no figure.
OUTPUTS = ("json", "out", "plot")


@dataclass
class Output:
    """Where results go. LociError for a file that cannot be written, before anything is measured.

    json: the figures with their protocol are printed instead of a text. out: their file.
    """

    json: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.out is not None:
            check_file(self.out)


def protocol(
    options: Output, rows: Mapping[str, Config | dict[str, Any]], *, seed: int, spread: str,
    dtypes: Sequence[torch.dtype] = (torch.float32,), device: torch.device | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The protocol of a benchmark. Call it while the precision that products are made with holds.

    rows: what is measured, by its name: the configuration of a model or, where there is no model,
    of a camera and the like, or settings as JSON has them. The protocol has their hashes, where
    those of studies have them. seed: of weights and data, or the first one. spread: what the
    intervals of the figures are. device: the CPU by default. more: the number of repeats or cases,
    and whatever else a reader asks.
    """
    device = torch.device("cpu") if device is None else device
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return {
        **made_with(device, torch.get_float32_matmul_precision(), names), "cpu": cpu_features(),
        "rows": {name: {"config": _hash(measured)} for name, measured in rows.items()},
        "seed": seed, "spread": spread, **more, "command": _command(options),
    }


def save(options: Output, results: Mapping[str, Any], text: str) -> None:
    """Write `results` (figures, and their `protocol`) where the options say, and print them as JSON
    or as `text`."""
    written = to_json(results)
    if options.out is not None:
        atomic_write(options.out, written)
    print(written if options.json else text, end="" if options.json else "\n")


def quartiles(name: str, values: Sequence[float]) -> dict[str, float]:
    """The median of a figure, and under NAME_lo and NAME_hi its quartiles."""
    found = spread_of(values)
    return {name: found["median"], f"{name}_lo": found["lo"], f"{name}_hi": found["hi"]}


def _hash(measured: Config | dict[str, Any]) -> str:
    return measured.hash() if isinstance(measured, Config) else settings_hash(measured)


def _command(options: Output) -> str:
    """What makes these figures again, defaults included."""
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    for name, value in vars(options).items():
        if name not in OUTPUTS and value is not False:
            flag = f"--{name.replace('_', '-')}"
            words.append(flag if value is True else f"{flag} {value}")
    return " ".join(words)
