"""The checkpoints that ship with Loci. Where a checkpoint is wanted, their names will do."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "checkpoints"


def shipped(name: str) -> Path:
    """Where the checkpoint of this name lies, if one ships."""
    return FOLDER / f"{name}.safetensors"


def names() -> list[str]:
    """Those that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def located(checkpoint: str | Path) -> Path:
    """The file that is meant by a path, or by a name where there is no such file."""
    path = Path(checkpoint)
    return shipped(str(path)) if not path.exists() and str(path) in names() else path
