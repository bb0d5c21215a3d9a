"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
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
    The file gets the permissions of any new file. Raises LociError (full disk, no permission, no
    such folder) and leaves nothing behind.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if scratch is not None:
            Path(scratch).mkdir(parents=True, exist_ok=True)
        name = f".{path.stem}-{secrets.token_hex(4)}{path.suffix}"
        temporary = Path(scratch or path.parent) / name
        # The system takes the umask off these permissions; to ask for the umask is to set it, for
        # all threads.
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # `content` may have put another, private file in its place, as safetensors does.
        temporary.chmod(mode)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LociError(f"cannot write {path}: {reason}; make room or choose another") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(folder: str | Path) -> None:
    """LociError where a folder is a file, or cannot be created or written. Nothing is created."""
    folder = Path(folder)
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise LociError(f"cannot write {folder}: {place} is a file; choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise LociError(f"cannot write {folder}: no permission in {place}; choose another folder")


def check_file(path: str | Path) -> None:
    """LociError where a file cannot be written: it is a folder, or its folder cannot be written.

    Commands call it first: what they write may take minutes to make. Nothing is created.
    """
    path = Path(path)
    if path.is_dir():
        raise LociError(f"{path} is a folder; name a file in it")
    check_writable(path.parent)


def cache_folder(name: str = "") -> Path:
    """Where things that can be made again are kept: below $LOCI_CACHE, or ~/.cache/loci."""
    root = os.environ.get("LOCI_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "loci") / name


def folder_size(folder: Path) -> int:
    """Bytes of the files in a folder and below it; 0 where there is none."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when the block ends: whole or not at all.

    It lies beside `path` until then, hidden; a process that is killed leaves it behind. Raises
    LociError where `path` exists, and for a full disk or a place that cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise LociError(f"{path} exists; nothing is overwritten: choose another, or take it away")
    check_writable(path.parent)
    temporary = path.parent / f".{path.name}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.rename(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LociError(f"cannot write {path}: {reason}; make room or choose another") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
