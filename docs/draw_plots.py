"""Draw the plots of the README and the pages from the results: python docs/draw_plots.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loci.io.files import atomic_write
from loci.report import rooms
from loci.report.families import families
from loci.report.svg import standalone

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"


def families_plot() -> str:
    """What comes back against the bytes that a memory holds, of every row of the families."""
    folder, results = _results("families")
    return rooms.plots(results, families(results["protocol"]), folder)["size"]


def geometry_plot() -> str:
    """Detail against bytes, of the families and of all rows that are told depth."""
    folder, results = _results("geometry")
    _, others = _results("families")
    for part in ("rows", "cost"):
        results[part] = others[part] | results[part]
    of_rows = families(others["protocol"]) | families(results["protocol"])
    results["protocol"]["rows"] = others["protocol"]["rows"] | results["protocol"]["rows"]
    return rooms.plots(results, of_rows, folder)["sharp"]


def _results(study: str) -> tuple[Path, dict[str, Any]]:
    folder = ROOT / "results" / study
    return folder, json.loads((folder / "results.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    for name, plot in (("families", families_plot), ("geometry", geometry_plot)):
        atomic_write(IMAGES / f"{name}.svg", standalone(plot()))
        print(IMAGES / f"{name}.svg")
