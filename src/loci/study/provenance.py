"""Where numbers come from: what every protocol says of the code and of the machine."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loci.io.checkpoint import commit
from loci.study.estimates import DRAWS, LEVEL, SEED
from loci.training.numerics import cpu_features, device_name

BOOTSTRAP = {"level": LEVEL, "draws": DRAWS, "seed": SEED}


def made_with(device: torch.device, precision: str, dtype: str = "float32") -> dict[str, Any]:
    """The code and the machine behind some numbers. precision: of products of fp32 matrices."""
    return {
        "commit": commit(), "device": device_name(device), "dtype": dtype, "matmul": precision,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def machine(device: torch.device) -> dict[str, Any]:
    """For the protocol of a benchmark."""
    precision = torch.get_float32_matmul_precision()
    return {"cpu": cpu_features(), **made_with(device, precision)}


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
