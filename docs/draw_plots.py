"""Draw the plot of the README from the results that ship: python docs/draw_plots.py"""

from __future__ import annotations

import json
from pathlib import Path

from loci.io.files import atomic_write
from loci.report import rooms
from loci.report.families import families
from loci.report.svg import standalone

ROOT = Path(__file__).resolve().parents[1]
PLOT = ROOT / "docs" / "images" / "families.svg"


def families_plot() -> str:
    """What comes back against the bytes that a memory holds, of every row of the families."""
    folder = ROOT / "results" / "families"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return rooms.plots(results, families(results["protocol"]), folder)["size"]


if __name__ == "__main__":
    atomic_write(PLOT, standalone(families_plot()))
    print(PLOT)
