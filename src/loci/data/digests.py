"""Digests of files, each read once: what was made from a file is known by the file's content, and a
dataset that was copied, or touched, is not encoded again.

As git's index does: a file whose size and time of change are those of the last time is taken to be
the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from loci.errors import LociError
from loci.io.files import atomic_write, cache_folder, file_digest

# A file that changed so many seconds ago may change again within one tick of the clock.
FRESH = 2.0


def digests_of(folder: Path, files: Sequence[Path]) -> list[str]:
    """SHA-256 of the `files` in `folder`. Those of earlier times are kept below the cache's folder.

    Raises LociError for a file that is missing or cannot be read.
    """
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    index = cache_folder("digests") / f"{name}.json"
    known, found, changed = _read(index), [], False
    for file in files:
        key = str(file.relative_to(folder))
        try:
            state = file.stat()
            size, when = state.st_size, state.st_mtime_ns
            entry = known.get(key)
            if entry is None or entry[:2] != [size, when]:
                entry = [size, when, file_digest(file)]
                if time.time() - when / 1e9 > FRESH:
                    known[key], changed = entry, True
        except OSError as error:
            raise LociError(f"cannot read {file}: {error.strerror}; check the dataset") from error
        found.append(str(entry[2]))
    if changed:
        atomic_write(index, json.dumps(known))
    return found


def _read(index: Path) -> dict[str, list[int | str]]:
    """What is remembered; nothing where that is damaged, since all of it can be read again."""
    try:
        known = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
