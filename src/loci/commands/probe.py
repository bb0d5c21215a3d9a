"""`loci probe`: what one checkpoint's memory stores, beside what generation reads out of it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from loci.data.episodes import EpisodeCache
from loci.errors import LociError
from loci.io.bundled import resolve_checkpoint
from loci.io.checkpoint import commit
from loci.io.files import atomic_write
from loci.io.progress import Progress
from loci.io.user_code import source_files
from loci.models.world import WorldModel
from loci.study.results import aggregate, cell
from loci.study.rooms.objects import CaseScore
from loci.study.rooms.probe import ASKED, BLIND, FITTED, LATENTS, Probe
from loci.training.numerics import device_name, matmul_precision, pick_device, reproducible

# (metric, heading): what a table of probes shows; the last three are what is read out.
COLUMNS = (
    ("there", "there,\n%"),
    ("which_later", "which,\nlater, %"), ("which_first", "which,\nfirst, %"),
    ("where", "where,\ndegrees"), ("turn", "turn,\ndegrees"),
    ("identity_later", "ident.\nlater, %"), ("identity_first", "ident.\nfirst, %"),
    ("psnr_seen", "PSNR\nseen"),
)


def probe(
    checkpoint: str | Path, cases: int = 64, seed: int = 0, out: str | Path | None = None
) -> dict[str, Any]:
    """Probe a checkpoint: {"protocol", "rows": row -> metric -> {mean, lo, hi, n}}.

    Rows are the checkpoint's, by its file's name, and the two of reference. Written to the file
    `out` where one is named. Raises LociError for a bad checkpoint, too few cases, or a file that
    cannot be written.
    """
    if cases < 1:
        raise LociError(f"{cases} cases show nothing; ask for 1 or more")
    path, device = resolve_checkpoint(checkpoint), pick_device()
    model = WorldModel.load(path).to(device)
    scores: dict[str, list[CaseScore]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        matmul_precision("exact", device) as precision, reproducible(device),
        Progress("probing", 3 * cases) as progress,
    ):
        progress.now("rooms")
        asked = Probe(model, EpisodeCache(Path(folder)), cases, seed)
        for name in (BLIND, LATENTS):
            progress.now(name)
            scores[name] = asked.reference(name)
            progress.advance(cases)
        progress.now(path.stem)
        scores[path.stem] = asked.score(model, progress.advance)
    found = {
        "protocol": {
            "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "config": model.config.hash(), "memory": model.config.memory.to_dict(),
            **source_files(model.config.memory),
            "cases": [case.key for case in asked.cases], "probed_rooms": len(asked.rooms),
            "variants": {"fitted": FITTED, "asked": ASKED}, "seed": seed,
            "interval": "95 % percentile bootstrap over cases",
            "commit": commit(), "dtype": "float32", "matmul": precision,
            "device": device_name(device),
            "command": f"loci probe {path.name} --cases {cases} --seed {seed}",
        },
        "rows": {row: all_["probe"] for row, all_ in aggregate({"probe": scores}).items()},
    }
    if out is not None:
        atomic_write(Path(out), json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found


def table(found: dict[str, Any]) -> Table:
    """What `probe` found, for a console."""
    protocol = found["protocol"]
    shown = Table(
        title=f"{len(protocol['cases'])} held-out rooms, {protocol['probed_rooms']} probed; "
        "'there' by chance 50 %, 'which' and identity 12.5 %",
        title_justify="left", box=SIMPLE_HEAD, padding=(0, 0),
    )
    shown.add_column("state", no_wrap=True)
    for _, heading in COLUMNS:
        shown.add_column(heading, justify="right")
    for row, scores in found["rows"].items():
        cells = [cell(name, scores.get(name)).replace(" [", "\n[") for name, _ in COLUMNS]
        shown.add_row(row, *cells)
    return shown
