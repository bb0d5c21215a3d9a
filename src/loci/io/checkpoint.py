"""Checkpoint files: tensors and everything needed to read them, in one safetensors file.

The metadata are all text: `format` and `version` (whose file it is), `kind` (what it holds),
`config` (JSON that rebuilds the object), `conventions` (axes, units, flow), `commit` (the code that
wrote it), `training` (how it came about) and `digest` (of the tensors: damage is noticed).
The same tensors and metadata always give the same bytes. Source: ours.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import struct
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from loci import __version__
from loci.config import Config
from loci.errors import LociError, check_type
from loci.io.bundled import bundled_names, resolve_checkpoint
from loci.io.files import atomic_write
from loci.io.migrations import migrate
from loci.io.mismatch import Mismatch

FORMAT = "loci-checkpoint"
VERSION = "1"
CONVENTIONS = {
    "axes": "OpenCV: x right, y down, z forward; the ground is the x-z plane, yaw > 0 turns right",
    "poses": "camera-to-world 4x4, relative to a named reference frame before they enter a model",
    "units": "metres, radians",
    "flow": "x_t = (1 - t) x_0 + t eps; t = 1 is noise; the target is eps - x_0",
    "video": "uint8 RGB (T, H, W, 3) at the edges, float in [-1, 1] inside",
}
# So many files of a folder stand in a message.
NAMED = 5
_LENGTH = struct.Struct("<Q")
# The safetensors library refuses longer headers: beyond this the file is something else.
_LONGEST_HEADER = 100_000_000


class Checkpoint(NamedTuple):
    """What a file holds. `metadata` has version, kind, commit, digest (text) and conventions and
    training (dicts)."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def save_checkpoint(
    path: str | Path,
    kind: str,
    config: Config | Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = torch.float32,
    **notes: object,
) -> str:
    """Write a checkpoint whole or not at all, and return the digest of its tensors.

    dtype: matrices of floats (two dimensions or more) are stored in it, None stores them as they
    are. Vectors and scalars always stay as they are: they cost little, and statistics live there.
    notes: JSON values about the training (steps, minutes, loss), kept as `training`.
    Raises LociError where the disk is full or the place cannot be written.
    """
    stored = _storable(tensors, dtype)
    sha = digest(stored)
    settings = config.to_dict() if isinstance(config, Config) else dict(config)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "config": json.dumps(settings, sort_keys=True),
        "conventions": json.dumps(CONVENTIONS, sort_keys=True),
        "commit": commit(),
        "training": json.dumps(notes, sort_keys=True),
        "digest": sha,
    }

    def write(temporary: Path) -> None:
        try:
            save_file(stored, temporary, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        _sort_header(temporary)

    atomic_write(path, write)
    return sha


def load_checkpoint(path: str | Path, kind: str) -> Checkpoint:
    """Read a checkpoint of the given kind: config, tensors (on the CPU, as stored), metadata.

    What earlier versions wrote is brought to today's form (`migrations.py`).

    path: the file, or the name of a checkpoint that ships with Loci (`bundled.py`).
    Raises LociError for a missing, truncated, damaged or foreign file, another version or kind.
    """
    path = resolve_checkpoint(path)
    _check_whole(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _metadata(path, kind, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LociError(f"{path} cannot be read: {error}; copy or train it again") from error
    if digest(tensors) != metadata["digest"]:
        raise LociError(f"{path} is damaged: its tensors changed; copy or train it again")
    said = {"config": metadata.pop("config"), "training": metadata.pop("training")}
    said = migrate(kind, said)
    return Checkpoint(said["config"], tensors, {**metadata, "training": said["training"]})


def checkpoint_kind(path: str | Path) -> str:
    """What a checkpoint holds. LociError for a missing, truncated or foreign file."""
    path = resolve_checkpoint(path)
    _check_whole(path)
    try:
        with safe_open(path, framework="pt") as file:
            return _of_this_version(path, file.metadata() or {}).get("kind", "")
    except (SafetensorError, OSError) as error:
        raise LociError(f"{path} cannot be read: {error}; copy or train it again") from error


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: str | Path = "") -> None:
    """Copy `tensors` into `module`, all of them, in the module's own dtype and device.

    Raises LociError that lists what is missing, unknown, or of another shape; `where` names the
    file in that message. Nothing is copied then.
    """
    wrong = Mismatch.between(
        {name: tensor.shape for name, tensor in tensors.items()},
        {name: tensor.shape for name, tensor in module.state_dict().items()},
    )
    if wrong:
        fix = "it was made by another configuration; load it with its own"
        raise LociError(f"{str(where) or 'the checkpoint'}: {wrong}: {fix}")
    module.load_state_dict(dict(tensors), strict=True)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits of the names, types, shapes and bytes of `tensors`."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()[:16]


@cache
def commit() -> str:
    """The commit of the running code, with `-dirty` after uncommitted changes; for an installed
    package, which has no history, `release` and its version."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            run = subprocess.run(
                ["git", "-C", str(here.parents[1]), *arguments],
                capture_output=True, text=True, timeout=20, check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    # A package installed inside somebody's repository is not part of that repository.
    tracked = git("ls-files", "--error-unmatch", str(here))
    head = git("rev-parse", "--short=12", "HEAD") if tracked else None
    if head is None:
        return f"release {__version__}"
    return head + ("-dirty" if git("status", "--porcelain", "--", ".") else "")


def _storable(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors on the CPU, in `dtype`, each with memory of its own."""
    stored: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        check_type(tensor, Tensor, f"'{name}' of a checkpoint", "a torch tensor")
        tensor = tensor.detach().cpu()
        if dtype is not None and tensor.is_floating_point() and tensor.dim() > 1:
            tensor = tensor.to(dtype)
        tensor = tensor.contiguous()
        address = tensor.untyped_storage().data_ptr()
        # Tied weights share memory, which the format cannot express: each name gets its copy.
        if address in storages:
            tensor = tensor.clone()
        storages.add(address)
        stored[name] = tensor
    return stored


def _sort_header(path: Path) -> None:
    """Order the metadata by name: the library writes them in an order that changes every time."""
    with path.open("rb+") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(_LENGTH.size)
        # The same content in another order is as long as before; spaces are legal padding.
        file.write(text.ljust(length))


def _check_whole(path: Path) -> None:
    """LociError for a missing, a truncated or a foreign file, each with a message of its own."""
    if not path.exists():
        # A misspelt file beside it, or a misspelt name of one that ships.
        beside = [str(file) for file in path.parent.glob("*.safetensors")]
        close = difflib.get_close_matches(str(path), [*bundled_names(), *beside], n=1)
        guess = f"did you mean '{close[0]}'? " if close else ""
        raise LociError(
            f"no checkpoint at {path}; {guess}check the path, make one with `loci train`, or name "
            f"one of those that ship: {', '.join(bundled_names())}"
        )
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.safetensors"))
        more = f" and {len(inside) - NAMED} more" if len(inside) > NAMED else ""
        hint = f"name a file in it: {', '.join(inside[:NAMED])}{more}"
        raise LociError(f"{path} is a folder; {hint if inside else 'it holds no checkpoint'}")
    foreign = LociError(f"{path} is not a safetensors file; give a checkpoint made by `loci train`")
    cut = LociError(f"{path} is cut short; copy or train it again")
    try:
        with path.open("rb") as file:
            head = file.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                raise cut
            (length,) = _LENGTH.unpack(head)
            if length > _LONGEST_HEADER:
                raise foreign
            text = file.read(length)
            if not text.startswith(b"{"):
                raise foreign if text else cut
            if len(text) < length:
                raise cut
            entries = json.loads(text)
            ends = [e["data_offsets"][1] for k, e in entries.items() if k != "__metadata__"]
            size = file.seek(0, 2) - _LENGTH.size - length
    except OSError as error:
        raise LociError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise foreign from error
    if size < max(ends, default=0):
        raise cut


def _of_this_version(path: Path, raw: Mapping[str, str]) -> Mapping[str, str]:
    """The texts of a file. LociError unless it is a checkpoint of this version."""
    if raw.get("format") != FORMAT:
        raise LociError(
            f"{path} is a safetensors file of another program; give one made by `loci train`"
        )
    if raw.get("version") != VERSION:
        raise LociError(
            f"{path} has version {raw.get('version')} and this Loci reads version {VERSION}; "
            "use the release that wrote it"
        )
    return raw


def _metadata(path: Path, kind: str, raw: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a file. LociError unless it is a checkpoint of this version and kind."""
    raw = _of_this_version(path, raw)
    if raw.get("kind") != kind:
        raise LociError(f"{path} holds a {raw.get('kind')} and a {kind} is wanted; give another")
    try:
        texts = {key: raw[key] for key in ("version", "kind", "commit", "digest")}
        trees = {key: json.loads(raw[key]) for key in ("config", "conventions", "training")}
    except (KeyError, ValueError) as error:
        raise LociError(f"{path} has damaged metadata ({error}); copy or train it again") from error
    return texts | trees
