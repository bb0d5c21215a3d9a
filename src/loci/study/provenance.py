"""Where numbers come from: what every protocol says of the code and of the machine."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

from loci.io.checkpoint import commit
from loci.study.estimates import DRAWS, LEVEL, SEED
from loci.training.numerics import device_name

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
