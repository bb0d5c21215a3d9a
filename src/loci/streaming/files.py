"""A session's memory on disk: the tree of its snapshot, and whom it belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from loci.errors import LociError
from loci.io.checkpoint import digest
from loci.io.files import atomic_write
from loci.memory.stores import PlaceStore, Tree, below
from loci.rules.rule import Kind
from loci.streaming.kv_cache import KVCache

if TYPE_CHECKING:
    from loci.models.world import WorldModel
    from loci.models.world_action import WorldActionModel

    Model = WorldModel | WorldActionModel

FORMAT, VERSION = "loci-session", "4"
# Numbers of each weight that go into a model's fingerprint.
SAMPLE = 64


def save(
    path: str | Path, model: Model, tree: Mapping[str, Tensor], places: Sequence[PlaceStore] = ()
) -> None:
    """Write a snapshot to a safetensors file, whole or not at all. places: the stores among it that
    describe a place, which `streaming/place.py` reads by themselves."""
    held = {k: v.detach().cpu().contiguous() for k, v in tree.items()}
    world = getattr(model.config, "world", model.config)
    notes = {
        "format": FORMAT, "version": VERSION, "config": model.config.hash(),
        "weights": _fingerprint(model), "digest": digest(held),
        "places": ",".join(store.name for store in places),
        "camera": world.camera.hash(), "codec": world.codec.hash(),
    }

    def write(temporary: Path) -> None:
        try:
            save_file(held, temporary, notes)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    atomic_write(path, write)


def load(path: str | Path, model: Model) -> Tree:
    """The snapshot in a file; LociError for a damaged one, another version or another model."""
    tree, notes = _read(path)
    version = notes["version"]
    if notes.get("config") != model.config.hash():
        raise LociError(
            f"{path} belongs to another model or memory row (config {notes.get('config')}, "
            f"not {model.config.hash()}); load it with that one"
        )
    if notes.get("weights") != _fingerprint(model, version):
        raise LociError(
            f"{path} belongs to other weights of this configuration; load it with the "
            "checkpoint that wrote it"
        )
    while version in MIGRATIONS:
        version, migrate = MIGRATIONS[version]
        tree = migrate(tree, model)
    return tree


def read(path: str | Path) -> tuple[Tree, dict[str, str]]:
    """The snapshot in a file and its notes, whatever model it belongs to; LociError for a damaged
    one and another version."""
    tree, notes = _read(path)
    if notes["version"] != VERSION:
        raise LociError(
            f"{path} is a memory of version {notes['version']}, which only its own model reads; "
            "load it with that one and save it again"
        )
    return tree, notes


def _read(path: str | Path) -> tuple[Tree, dict[str, str]]:
    """The same for any version that there was."""
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
            tree = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = f"cannot read memory {path}: {error}"
        raise LociError(f"{reason}; save the session again") from error
    if notes.get("format") != FORMAT:
        raise LociError(f"{path} is not a saved memory; give a file made by Session.save")
    version = notes.get("version", "")
    if version != VERSION and version not in MIGRATIONS:
        raise LociError(
            f"{path} is a memory of version {version}, this is {VERSION}; write the frames again"
        )
    if notes.get("digest") != digest(tree):
        raise LociError(f"{path} is damaged: its tensors changed; save the session again")
    return tree, notes


def _fingerprint(model: Model, version: str = VERSION) -> str:
    """Tells two trainings of one configuration apart without reading gigabytes."""
    parts = {n: p.detach().flatten()[:SAMPLE] for n, p in model.named_parameters()}
    if version == "2":  # every model had gists then, if only none of them
        parts.setdefault("world.gist_bank" if hasattr(model, "world") else "gist_bank",
                         torch.zeros(0))
    return digest(parts)


def _from_version_2(tree: Mapping[str, Tensor], model: Model) -> Tree:
    """Version 2 had a slot for each token, with its frame and kind; a policy's tree held that of
    its session."""
    if "proprio" in tree:
        inner = _from_version_2(below(tree, "session"), model.world)
        rest = {k: v for k, v in tree.items() if not k.startswith("session.")}
        return rest | {f"stream.{name}": value for name, value in inner.items()}
    written, slots = tree["written"].tolist(), tree["slots"]
    kept = {k: v for k, v in tree.items() if k in ("written", "reference") or k[:5] == "text."}
    kept |= {f"states.{k[8:]}": v for k, v in tree.items() if k.startswith("carried.")}
    kept |= {f"frames.{k}": tree[k] for k in ("poses", "latents") if tree[k].shape[1]}
    actions = int((slots[..., 3] == int(Kind.EXECUTED)).sum(-1).max())
    size = actions // max(1, max(written) - 1)
    (kv,) = (s for s in model.stores(len(written), actions=size) if isinstance(s, KVCache))
    tables = [kv.table(frames) for frames in written]
    low, high = min(table.low for table in tables), max(table.high for table in tables)
    for name in (k for k in tree if k.startswith(("keys.", "values."))):
        old = tree[name]
        new = old.new_zeros(*old.shape[:2], high - low, old.shape[3])
        for stream, table in enumerate(tables):
            for block, start in table.start.items():
                here = slots[stream][:, [0, 3]] == torch.tensor([block.frame, int(block.kind)])
                part = old[stream][:, here.all(-1)]
                new[stream, :, start - low : start - low + part.shape[1]] = part
        kept[f"kv.{name}"] = new
    return kept


def _from_version_3(tree: Mapping[str, Tensor], model: Model) -> Tree:
    """Version 3 knew one gauge, and each map had a number of its own for it."""
    at = "stream." if "proprio" in tree else ""
    gauge = torch.zeros(len(tree[f"{at}written"]), dtype=torch.long)
    kept = {k: v for k, v in tree.items() if not re.fullmatch(r"map\.\d+\.gauge", k)}
    return kept | {f"{at}gauge": gauge}


# From older versions to the next ones.
MIGRATIONS: dict[str, tuple[str, Callable[[Mapping[str, Tensor], Any], Tree]]] = {
    "2": ("3", _from_version_2), "3": ("4", _from_version_3),
}
