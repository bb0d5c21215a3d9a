"""The registry of memory rows: a name, and the configuration behind it.

A new mechanism is one file beside this one and one line here.
"""

from __future__ import annotations

from loci.errors import LociError, nearest
from loci.memory.base import Memory
from loci.memory.context import Context
from loci.memory.hybrid import Hybrid
from loci.memory.none import NoMemory

ROWS: dict[str, Memory] = {
    "none": NoMemory(),
    "context-1": Context(frames=1),
    "context-5": Context(frames=5),
    "context-20": Context(frames=20),
    "hybrid": Hybrid(anchors=1, window=1, gists_per_frame=3),
}


def row(name: str) -> Memory:
    """The configuration of a named row; LociError names the nearest one."""
    if name not in ROWS:
        raise LociError(f"unknown memory row '{name}'{nearest(name, ROWS)}")
    return ROWS[name]


__all__ = ["ROWS", "Context", "Hybrid", "Memory", "NoMemory", "row"]
