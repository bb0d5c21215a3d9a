"""The layouts that weights come in, and what tells them apart before they are opened."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from loci.errors import LociError
from loci.io.checkpoint import FORMAT

# A pipeline of diffusers, and the settings of each of its parts.
PIPELINE, CONFIG = "model_index.json", "config.json"


class Layout(StrEnum):
    """How weights are stored."""

    ORIGINAL = "original"
    DIFFUSERS = "diffusers"
    LOCI = "loci"


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of Loci. LociError for a damaged .safetensors file."""
    if not path.is_file() or path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError) as error:
        raise LociError(f"weights in {path} cannot be read ({error}); fetch them again") from error


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The config.json of a folder, None where there is none. LociError for a damaged one."""
    file = folder / CONFIG
    if not file.is_file():
        return None
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LociError(f"{file} cannot be read ({error}); fetch it again") from error
    if not isinstance(settings, dict):
        raise LociError(f"{file} holds no settings; fetch it again")
    return settings
