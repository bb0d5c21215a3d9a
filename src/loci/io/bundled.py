"""The checkpoints that ship with Loci. Where a checkpoint is wanted, their names will do."""

from __future__ import annotations

from pathlib import Path

from loci.errors import LociError

FOLDER = Path(__file__).parents[1] / "checkpoints"


def bundled(name: str) -> Path:
    """The path of the checkpoint that ships under this name, whether there is one or not."""
    return FOLDER / f"{name}.safetensors"


def bundled_names() -> list[str]:
    """The names of the checkpoints that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def resolve_checkpoint(checkpoint: str | Path) -> Path:
    """The file at this path; where there is none, the checkpoint that ships under this name.

    Raises LociError where nothing is named. Whether the file exists is checked when it is read.
    """
    if not str(checkpoint).strip():
        names = ", ".join(bundled_names())
        raise LociError(f"no checkpoint is named; give a file, or one that ships: {names}")
    path = Path(checkpoint)
    return bundled(str(path)) if not path.exists() and str(path) in bundled_names() else path
