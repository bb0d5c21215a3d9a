"""`loci eval scenes`: a world model on the scenes that its training held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loci.io.files import atomic_write, check_file
from loci.io.json_files import to_json
from loci.study.estimates import shown
from loci.study.scenes import FLOOR, score_scenes
from loci.study.tables import Grid, Line

COLUMNS = (("psnr", "PSNR, dB", ".2f"), ("ssim", "SSIM", ".3f"))


def play_scenes(
    folder: str | Path, cases: int = 32, seed: int = 0, steps: int | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """What `score_scenes` finds, written to the file `out` where one is named."""
    if out is not None:
        check_file(out)
    found = score_scenes(folder, cases, seed, steps)
    if out is not None:
        atomic_write(out, to_json(found))
    return found


def table(results: Mapping[str, Any]) -> Grid:
    """The scores, the model's above those of a picture held still."""
    protocol = results["protocol"]
    title = (
        f"{protocol['cases']} episodes of {len(protocol['heldout_scenes'])} held-out scenes: the "
        "second half, generated"
    )
    lines = [
        Line(
            row, [shown(scores.get(name), form) for name, _, form in COLUMNS],
            "floor" if row == FLOOR else "row",
        )
        for row, scores in results["rows"].items()
    ]
    return Grid(title, ["", *(heading for _, heading, _ in COLUMNS)], lines, narrow=True)
