"""How results are shown on a console."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loci.study.tables import Grid

# Columns of a console on which every table fits with its intervals.
WIDE = 150


def show(results: Mapping[str, Any], grids: Sequence[Grid], as_json: bool) -> None:
    """Print results as JSON, or their tables."""
    if as_json:
        print(json.dumps(results, indent=2))
        return
    console = Console()
    for grid in grids:
        console.print(console_table(grid, console.width))


def console_table(grid: Grid, width: int = 80) -> Table:
    """A table for a console of so many columns: most show no intervals on a narrow one."""
    intervals = grid.narrow or width >= WIDE
    left_out = "" if intervals else " (intervals: on a wider console)"
    table = Table(
        title=escape(grid.title + left_out), title_justify="left", box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0) if intervals and not (grid.stacked and grid.narrow) else (0, 0),
    )
    for number, head in enumerate(grid.heads):
        table.add_column(
            escape(head), justify="right" if number else "left",
            no_wrap=number == 0 or not grid.stacked,
        )
    for line in grid.lines:
        if line.kind == "head" and table.row_count:
            table.add_section()
        cells = [cell if intervals else cell.partition(" [")[0] for cell in line.cells]
        if grid.stacked:
            cells = [cell.replace(" [", "\n[") for cell in cells]
        style = {"head": "bold", "row": ""}.get(line.kind, "dim")
        table.add_row(escape(line.name), *map(escape, cells), style=style)
    return table
