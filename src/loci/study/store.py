"""What a study has made, in its folder: nothing is made twice, and nothing is deleted.

Everything is kept under a key of all that it depends on. A value has the plain name of its place;
where a value of another key has that name already, it stays, and the new one takes a name with its
key in it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loci.errors import LociError
from loci.io.files import atomic_write
from loci.io.json_files import read_json, read_lines

Record = dict[str, Any]


def key_of(what: Any) -> str:
    """Sixteen hexadecimal digits that change with anything in `what`, a tree that JSON holds."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """The values and logs of a study in the folder `out`.

    made: the code and the machine that make values now; it is kept beside each.
    """

    def __init__(self, out: str | Path):
        self.out = Path(out)
        self.made: Record = {}

    def value(self, place: str, key: str, make: Callable[[], Any], field: str = "value") -> Any:
        """The value (a tree that JSON holds) of a key, as it was kept, or made now and kept.

        place: its file, relative to the folder; .json, or .json.gz packed. field: what the file
        calls it. The value is on the disk whole or not at all. Raises LociError for a damaged file,
        and whatever `make` does.
        """
        file, there = self._file(place, key, field)
        if there is None:
            there = make()
            made = {"made": self.made} if self.made else {}
            text = json.dumps({"key": key, **made, field: there}, allow_nan=False) + "\n"
            packed = gzip.compress(text.encode(), mtime=0) if file.suffix == ".gz" else text
            atomic_write(file, packed)
        return there

    def has(self, place: str, key: str, field: str = "value") -> bool:
        """Whether the value is kept."""
        return self._file(place, key, field)[1] is not None

    def made_with(self, place: str, key: str, field: str = "value") -> Record | None:
        """What made a value that is kept; None for one of an earlier version, which did not say."""
        file, there = self._file(place, key, field)
        return None if there is None else read_json(file).get("made")

    def log(self, place: str, key: Mapping[str, Any], before: Callable[[Record], bool]) -> Log:
        """The log of a key in the folder `place` (or beside it, where another key has that name).

        before: whether the first line of a log is what an earlier version wrote for this key.
        """
        key = json.loads(json.dumps(dict(key)))
        for folder in (self.out / place, self.out / f"{place or 'episodes'}-{key_of(key)}"):
            lines = read_lines(folder / LOG)
            if not lines or lines[0] == key or before(lines[0]):
                break
        if not lines and (folder / LOG).exists():
            raise LociError(f"{folder / LOG} is damaged; delete it, its cases are played again")
        return Log(folder, key, lines[1:])

    def _file(self, place: str, key: str, field: str) -> tuple[Path, Any]:
        """The file of a key, and what it holds; None where nothing is kept yet."""
        plain = self.out / place
        name, dot, suffix = plain.name.partition(".json")
        for file in (plain, plain.with_name(f"{name}-{key}{dot}{suffix}")):
            if not file.exists():
                break
            data = read_json(file)
            if not isinstance(data, dict) or not {"key", field} <= data.keys():
                raise LociError(f"{file} is damaged; delete it, it is made again")
            if data["key"] == key:
                return file, data[field]
        return file, None


LOG = "episodes.jsonl"


@dataclass
class Log:
    """Finished cases, a line each, written as they are finished: `folder`/episodes.jsonl.

    Its first line is the key. `lines` are in the order of the file, one a case.
    """

    folder: Path
    key: Record
    lines: list[Record]

    def begin(self) -> None:
        """Make the file, or cut off what a kill left unfinished in it."""
        atomic_write(
            self.folder / LOG, "".join(json.dumps(x) + "\n" for x in (self.key, *self.lines))
        )

    def append(self, line: Record) -> None:
        """Keep one more case. `begin` comes first."""
        try:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            reason = error.strerror or str(error)
            raise LociError(f"cannot write {self.folder / LOG}: {reason}; make room") from error
        self.lines.append(line)
