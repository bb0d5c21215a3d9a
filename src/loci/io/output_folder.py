"""Output folders: one writer at a time, and a note of what made each.

    .loci/identity.json   the kind of output, and the settings that made it
    .loci/lock            held while a process writes; the system releases it when that process ends

A command checks first and creates last:

    folder = OutputFolder.open(out, Kind.STUDY, {"study": "ground", "seed": 0})   # creates nothing
    ...                               # everything else that can be refused: options, device, data
    with folder.begin():              # the lock, the folder and the identity
        ...                           # write
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from loci.errors import LociError
from loci.io.files import atomic_write, check_writable

HIDDEN = ".loci"
IDENTITY = f"{HIDDEN}/identity.json"
LOCK = f"{HIDDEN}/lock"
# Seconds. Another process that only checks the folder holds the lock for a moment.
PATIENCE = 1.0

Settings = Mapping[str, Any]


class Kind(StrEnum):
    """What a folder can hold."""

    DATASET = "dataset"
    TRAINING = "training run"
    EVALUATION = "closed-loop evaluation"
    STUDY = "study"


# Folders made before there were identities are known by these files. The first match decides.
MARKERS: dict[Kind, tuple[str, ...]] = {
    Kind.DATASET: ("meta/info.json", ".unfinished"),
    Kind.TRAINING: ("config.json", "train.jsonl"),
    Kind.EVALUATION: ("episodes.jsonl",),
    Kind.STUDY: ("cases.json", "results.json", "parts", "training", "baselines"),
}


class OutputFolder:
    """A folder for one output. Make it with `open`, write between `begin` and `close`."""

    def __init__(
        self,
        path: Path,
        kind: Kind,
        settings: Settings | None,
        earlier: Callable[[Path], Settings | None],
    ):
        self.path = path
        self.kind = kind
        # As JSON gives them back: a tuple becomes a list.
        self.settings = None if settings is None else json.loads(json.dumps(settings))
        self._earlier = earlier
        self._lock: FileLock | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        kind: Kind,
        settings: Settings | None = None,
        earlier: Callable[[Path], Settings | None] = lambda _: None,
    ) -> Self:
        """Check that `path` can become this output, or already is. Nothing is created.

        settings: what made it, a JSON map; an output with other settings is refused. None accepts
        any settings. What may grow later (a number of episodes, say) does not belong there.
        earlier: the settings of a folder that holds this kind of output and no identity, because an
        earlier version made it; None where they are not known, and are accepted.

        Raises LociError where another process writes the folder, where it holds another output or
        other files, and where it cannot be written.
        """
        folder = cls(Path(path), kind, settings, earlier)
        check_writable(folder.path)
        if (folder.path / LOCK).exists():
            folder._acquire().release()
        folder._check_content()
        return folder

    @property
    def begun(self) -> bool:
        """Whether the folder holds this output already, finished or not."""
        return (self.path / IDENTITY).exists() or _found(self.path) is not None

    def begin(self) -> Self:
        """Lock the folder, and create it with its identity where it is new.

        The lock lasts until `close`, or as long as this object does. Raises what `open` raises:
        another process may have begun in the meantime.
        """
        check_writable(self.path)
        self._lock = self._acquire()
        try:
            self._check_content()
            if not (self.path / IDENTITY).exists():
                identity = {"kind": str(self.kind), "settings": self.settings}
                text = json.dumps(identity, indent=1, sort_keys=True) + "\n"
                atomic_write(self.path / IDENTITY, text)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Release the lock. What was written stays."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_content(self) -> None:
        """LociError where the folder holds something else than this output."""
        found = _found(self.path)
        if found is None:
            other = _some_file(self.path)
            if other is not None:
                raise LociError(f"{self.path} holds other files ({other}); give an empty folder")
            return
        kind, settings = found
        if kind != self.kind:
            raise LociError(f"{self.path} holds a {kind}, not a {self.kind}; choose another folder")
        if settings is None:
            settings = self._earlier(self.path)
        if settings is None or self.settings is None or settings == self.settings:
            return
        raise LociError(
            f"{self.path} holds a {kind} with other settings "
            f"({difference(settings, self.settings)}); repeat its options or choose another folder"
        )

    def _acquire(self) -> FileLock:
        """The lock, or LociError where another process holds it."""
        lock = FileLock(self.path / LOCK, thread_local=False)
        try:
            (self.path / HIDDEN).mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=PATIENCE, poll_interval=0.05)
        except Timeout as error:
            raise LociError(
                f"another process writes {self.path}; wait for it to end, or choose another folder"
            ) from error
        except OSError as error:
            raise LociError(
                f"cannot write {self.path}: {error.strerror}; choose another folder"
            ) from error
        return lock


def difference(there: Any, here: Any, where: str = "") -> str:
    """The first setting in which two JSON trees differ, with both its values."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key):
                return difference(there.get(key), here.get(key), f"{where}.{key}".lstrip("."))
    return f"{where or 'all'}: {there!r} there, {here!r} now"


def _found(path: Path) -> tuple[str, Any] | None:
    """The kind and settings of the output in a folder; None where it holds no output. Settings are
    None where they are not known."""
    file = path / IDENTITY
    if not file.exists():
        kinds = (kind for kind, files in MARKERS.items() if any((path / f).exists() for f in files))
        kind = next(kinds, None)
        return None if kind is None else (kind, None)
    try:
        identity = json.loads(file.read_text(encoding="utf-8"))
        return identity["kind"], identity["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LociError(f"{file} cannot be read ({error}); choose another folder") from error


def _some_file(path: Path) -> str | None:
    """The name of something in a folder, hidden files aside."""
    entries = path.iterdir() if path.is_dir() else ()
    return min((p.name for p in entries if not p.name.startswith(".")), default=None)
