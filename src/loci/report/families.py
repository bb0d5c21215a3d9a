"""Families of memories, and their colours: the same in every plot and table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from loci.memory import ROWS
from loci.recipes.registry import PREFIXES

# By the type of a memory's configuration.
MEMBERS: dict[str, tuple[str, ...]] = {
    "recent frames": ("none", "window"), "raw frames": ("context", "full", "joint"),
    "latents": ("compressed", "mixture", "packed"), "gists": ("hybrid", "tower"),
    "carried state": ("ssm", "shortconv", "delta", "ttt"),
    "spatial grid": ("spatial", "pooled"), "the place": ("map", "episodic"),
    "composed": ("compose",),
}
OTHER = "other memory"
COLORS = {
    "recent frames": "#8b95a1", "raw frames": "#2f6fc0", "latents": "#b565a7", "gists": "#e0803a",
    "carried state": "#2f9d78", "spatial grid": "#c9a227", "the place": "#8a5a44",
    "composed": "#6a4fb3", OTHER: "#d1495b",
}


def family(row: str, protocol: Mapping[str, Any]) -> str:
    """The family of a row: of the memory that its protocol names, or of its name."""
    kind = protocol["rows"].get(row, {}).get("type")
    name = reduce(str.removeprefix, PREFIXES, row)
    if kind is None and name in ROWS:
        kind = ROWS[name].type_name
    return next((name for name, kinds in MEMBERS.items() if kind in kinds), OTHER)


def families(protocol: Mapping[str, Any]) -> dict[str, str]:
    """row -> family, of all rows of a study."""
    return {row: family(row, protocol) for row in protocol["rows"]}


def ordered(rows: Mapping[str, str], results: Mapping[str, float]) -> list[str]:
    """Rows by family, and in it those with the best results first. rows: row -> family."""
    order = list(COLORS)
    return sorted(rows, key=lambda row: (order.index(rows[row]), -results.get(row, -1.0)))


def present(rows: Mapping[str, str]) -> Sequence[str]:
    """The families that occur, in their order."""
    return [name for name in COLORS if name in rows.values()]
