"""Arrays that are kept because they take long to make: a file that says what it holds.

What was made is known by its key, everything that it depends on. A file that is truncated, altered,
of another version or of another key is refused with one line, and never used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from loci.errors import LociError
from loci.io.files import atomic_write

Key = Mapping[str, Any]


def name_of(key: Key) -> str:
    """Sixteen digits that change with anything in the key: a file's name."""
    return hashlib.sha256(_text(key).encode()).hexdigest()[:16]


def keep(file: Path, version: str, key: Key, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays with their version, their key and a checksum."""
    # safetensors writes an array's memory as it lies, and not the array, where it is a view.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    head = {"format": version, "key": _text(key), "sha256": _digest(arrays)}
    atomic_write(file, save(arrays, metadata=head))


def read_kept(file: Path, version: str, key: Key, what: str = "episode") -> dict[str, np.ndarray]:
    """The arrays of `file`, or a LociError that says what is wrong with it.

    what: what it holds, for messages.
    """
    found, arrays = read_any(file, version, what)
    if _text(found) != _text(key):
        raise LociError(
            f"{what} {file} holds another {what} than its name says; delete {file}; it is made "
            "again"
        )
    return arrays


def read_any(
    file: Path, version: str, what: str = "episode"
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The key and the arrays of `file`, whatever was made, or a LociError as `read_kept`'s."""
    fix = f"delete {file}; it is made again"
    try:
        content = file.read_bytes()
        size = int.from_bytes(content[:8], "little")
        head = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        arrays = load(content)
    except OSError as error:
        raise LociError(f"cannot read {what} {file}: {error.strerror}; {fix}") from error
    except (SafetensorError, ValueError, AttributeError) as error:
        raise LociError(f"{what} {file} is truncated or no {what}; {fix}") from error
    if head.get("format") != version:
        raise LociError(f"{what} {file} is of version {head.get('format')}, not {version}; {fix}")
    if head.get("sha256") != _digest(arrays):
        raise LociError(f"{what} {file} is corrupt (checksum); {fix}")
    return json.loads(head["key"]), arrays


def _text(key: Key) -> str:
    return json.dumps(dict(key), sort_keys=True)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
