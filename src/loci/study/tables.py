"""Tables that a console and a page show alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """A row of a table. cells: texts such as "98 [96, 100]". kind: "row", "floor" or "ceiling" for
    rows of reference, "head" for one that begins a group."""

    name: str
    cells: Sequence[str] = ()
    kind: str = "row"


@dataclass(frozen=True)
class Grid:
    """A table of texts. heads: above its columns, the first above the names. stacked: intervals
    stand below their numbers; narrow: they have room on a console of 80 columns."""

    title: str
    heads: Sequence[str]
    lines: list[Line] = field(default_factory=list)
    stacked: bool = False
    narrow: bool = False
