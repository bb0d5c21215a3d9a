"""Files that are either whole or absent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from loci.errors import LociError


def atomic_write(
    path: str | Path,
    content: bytes | str | Callable[[Path], object],
    scratch: str | Path | None = None,
) -> None:
    """Write `path` whole or not at all.

    `content` is the bytes or text, or a function that writes the temporary file it is given. That
    file lies beside `path`, or in the folder `scratch` of the same file system: a process that is
    killed leaves it behind, and other programs may take whatever lies beside `path` for data.
    Raises LociError (full disk, no permission, no such folder) and leaves nothing behind.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if scratch is not None:
            Path(scratch).mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(path.suffix, f".{path.stem}-", scratch or path.parent)
        os.close(handle)
        temporary = Path(name)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is meant to be read like any other file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LociError(f"cannot write {path}: {reason}; make room or choose another") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def cache_folder(name: str) -> Path:
    """Where things that can be made again are kept: $LOCI_CACHE, or ~/.cache/loci."""
    root = os.environ.get("LOCI_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "loci") / name
