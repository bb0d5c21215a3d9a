"""A session's memory on disk: the tree of its snapshot, and whom it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from loci.errors import LociError
from loci.io.checkpoint import digest
from loci.io.files import atomic_write

if TYPE_CHECKING:
    from loci.models.world import WorldModel

FORMAT, VERSION = "loci-session", "2"
# Numbers of each weight that go into a model's fingerprint.
SAMPLE = 64


def save(path: str | Path, model: WorldModel, tree: Mapping[str, Tensor]) -> None:
    """Write a snapshot to a safetensors file, whole or not at all."""
    held = {k: v.detach().cpu().contiguous() for k, v in tree.items()}
    notes = {
        "format": FORMAT, "version": VERSION, "config": model.config.hash(),
        "weights": _fingerprint(model), "digest": digest(held),
    }

    def write(temporary: Path) -> None:
        try:
            save_file(held, temporary, notes)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    atomic_write(path, write)


def load(path: str | Path, model: WorldModel) -> dict[str, Tensor]:
    """The snapshot in a file; LociError for a damaged one, another version or another model."""
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
            tree = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = f"cannot read memory {path}: {error}"
        raise LociError(f"{reason}; save the session again") from error
    if notes.get("format") != FORMAT:
        raise LociError(f"{path} is not a saved memory; give a file made by Session.save")
    if notes.get("version") != VERSION:
        raise LociError(
            f"{path} is a memory of version {notes.get('version')}, this is {VERSION}; "
            "write the frames again"
        )
    if notes.get("config") != model.config.hash():
        raise LociError(
            f"{path} belongs to another model or memory row (config {notes.get('config')}, "
            f"not {model.config.hash()}); load it with that one"
        )
    if notes.get("weights") != _fingerprint(model):
        raise LociError(
            f"{path} belongs to other weights of this configuration; load it with the "
            "checkpoint that wrote it"
        )
    if notes.get("digest") != digest(tree):
        raise LociError(f"{path} is damaged: its tensors changed; save the session again")
    return tree


def _fingerprint(model: WorldModel) -> str:
    """Tells two trainings of one configuration apart without reading gigabytes."""
    return digest({n: p.detach().flatten()[:SAMPLE] for n, p in model.named_parameters()})
