"""Rows: memory configurations by name, those that ship and those of your own files.

The environment variable LOCI_ROWS names Python files, separated like the folders of PATH, from the
working directory on. Whoever asks for a row, in a command, a test or a process that one of them
started, gets theirs too. They are run only then: a file may import all of Loci.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING

from loci.config import Config
from loci.errors import LociError
from loci.io.user_code import load_file

if TYPE_CHECKING:
    from loci.memory.base import Memory

VARIABLE = "LOCI_ROWS"
_loaded: set[str] = set()


def load_rows() -> None:
    """Run the files that LOCI_ROWS names, each once. LociError for one that does not load."""
    for name in os.environ.get(VARIABLE, "").split(os.pathsep):
        if name and name not in _loaded:
            try:
                load_file(name, "memory")
            except LociError as error:
                raise LociError(f"{VARIABLE}: {error}") from error
            _loaded.add(name)


class Rows(MutableMapping[str, "Memory"]):
    """Name -> configuration. A name stands for one of them: to give it to another, delete it."""

    def __init__(self, rows: Mapping[str, Memory]):
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> Memory:
        load_rows()
        return self._rows[name]

    def __setitem__(self, name: str, memory: Memory) -> None:
        if not isinstance(memory, Config):
            raise LociError(
                f"memory row '{name}' is {memory!r}; give it a configuration, an object of the "
                "mechanism's class"
            )
        there = self._rows.get(name, memory)
        if there.hash() != memory.hash():
            raise LociError(f"there is a memory row '{name}' with other settings; rename one")
        self._rows[name] = memory

    def __delitem__(self, name: str) -> None:
        load_rows()
        del self._rows[name]

    def __iter__(self) -> Iterator[str]:
        load_rows()
        return iter(self._rows)

    def __len__(self) -> int:
        load_rows()
        return len(self._rows)
