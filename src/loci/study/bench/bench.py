"""`loci bench`: what each row's memory costs, side by side in one process.

Every row is the small world model of the rooms, untrained: its cost does not depend on its weights.
All rows have written N frames when they are measured, and they take turns, so that the ratios hold
on a busy machine too.
"""

from __future__ import annotations

import json
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from loci.errors import LociError
from loci.io.checkpoint import commit
from loci.io.files import atomic_write
from loci.io.progress import Progress
from loci.io.user_code import source_files
from loci.memory import ROWS, row
from loci.recipes.rooms import rooms
from loci.study.bench.cost import BLOCK, Stream, graphed, in_turns
from loci.training.numerics import cpu_features, device_name, matmul_precision, pick_device

FRAMES = (25, 100, 400)
REPEATS = 7
FLOOR = "none"
SEED = 0

# What is timed, and what it is.
ACTS = {
    "write": "one frame is committed, the last ones before N: a clean pass through the network",
    "read": "what the next chunk may see is looked up; retrieved frames are selected and copied",
    "evaluation": "the network is evaluated once on that chunk, against what was read; on a GPU as "
    "one CUDA graph",
    "chunk": "that chunk is generated: one read, and an evaluation for every Euler step",
}


class Row:
    """One stream of a row's model, and the acts that are timed."""

    def __init__(self, name: str, device: torch.device):
        torch.manual_seed(SEED)
        self.model = rooms(row(name)).world.build().eval().to(device)
        # The first frame ever costs more than any other: it goes to a stream that is thrown away.
        Stream(self.model, self.model.session()).write()
        self.session = self.model.session()
        self.stream = Stream(self.model, self.session)

    def write(self) -> None:
        self.stream.write()

    def read(self) -> None:
        self.reading = self.session.read(self.stream.poses(self.model.config.chunk))

    def evaluation(self) -> Tensor:
        noisy = self.stream.noise[:, : self.model.config.chunk]
        return self.session.denoise(self.reading, noisy, 0.5)

    def chunk(self) -> Tensor:
        return self.stream.generate()


def run_bench(
    names: Sequence[str] | None = None,
    frames: Sequence[int] = FRAMES,
    repeats: int = REPEATS,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Measure rows (all by default; `none` is always among them) at each number of frames written.

    Returns {protocol, rows: row -> frames -> costs}: `tokens` and `bytes` held, and for each of
    `ACTS` `<act>_ms` and `<act>_ratio` (to `none` in the same turn), each {median, lo, hi, n} with
    the quartiles. It is written to `out` as JSON. Raises LociError for an unknown row, for numbers
    that cannot be and for a file that cannot be written.
    """
    chosen = list(dict.fromkeys([FLOOR, *(ROWS if names is None else names)]))
    for name in chosen:
        row(name)
    lengths, device = checked(frames, 1, repeats, out), pick_device()
    began = time.monotonic()
    with torch.inference_mode(), matmul_precision("exact", device) as precision:
        rows = {name: Row(name, device) for name in chosen}
        measured: dict[str, dict[str, Any]] = {name: {} for name in rows}
        with Progress("measuring", len(lengths) * len(rows) * (1 + 3 * (repeats + 1))) as progress:
            for count in lengths:
                for name, costs in measure(rows, count, repeats, device, progress).items():
                    measured[name][str(count)] = costs
    first = rows[FLOOR].model.config
    results = {
        "protocol": {
            "model": "the small world model of the rooms, untrained",
            "frames": "latent frames written, one stream",
            "rows": {
                name: {
                    "config": r.model.config.hash(),
                    "parameters": sum(p.numel() for p in r.model.parameters()),
                    **source_files(r.model.config.memory),
                }
                for name, r in rows.items()
            },
            "acts": ACTS,
            "repeats": repeats,
            "warm_up": "a turn of all rows; for write, a frame at the start",
            "spread": "medians and quartiles; ratios turn by turn, rows interleaved",
            "chunk": first.chunk, "steps": first.steps, "tokens_a_frame": rows[FLOOR].model.tokens,
            "block": BLOCK, "dtype": "float32", "matmul": precision, **machine(device),
            "command": f"loci bench --rows {shlex.quote(','.join(chosen))} --frames "
            f"{','.join(map(str, lengths))} --repeats {repeats}",
            "seconds": round(time.monotonic() - began, 1),
        },
        "rows": measured,
    }
    if out is not None:
        atomic_write(out, json.dumps(results, indent=1) + "\n")
    return results


def measure(
    rows: Mapping[str, Row], frames: int, repeats: int, device: torch.device, progress: Progress
) -> dict[str, dict[str, Any]]:
    """row -> its costs once `frames` frames are written."""
    # The last frames before that go one by one and are timed; there may be few of them.
    ahead = frames - rows[FLOOR].stream.frames
    alone = min(repeats, ahead)
    for name, each in rows.items():
        progress.now(f"{frames} frames, {name}")
        each.stream.advance(frames - alone)
        progress.advance()
    progress.now(f"{frames} frames, write")
    acts = {name: each.write for name, each in rows.items()}
    times = {"write": in_turns(acts, alone, device, warm=False)}
    for act in list(ACTS)[1:]:
        progress.now(f"{frames} frames, {act}")
        acts = {name: getattr(each, act) for name, each in rows.items()}
        if act == "evaluation":
            acts = {name: graphed(once, device) for name, once in acts.items()}
        times[act] = in_turns(acts, repeats, device, done=progress.advance)
    found: dict[str, dict[str, Any]] = {}
    for name, each in rows.items():
        costs = {"tokens": int(each.session.tokens()), "bytes": int(each.session.bytes())}
        for act, taken in times.items():
            costs[f"{act}_ms"] = spread(taken[name])
            pairs = zip(taken[name], taken[FLOOR], strict=True)
            costs[f"{act}_ratio"] = spread([mine / floor for mine, floor in pairs])
        found[name] = costs
    return found


def checked(
    frames: Sequence[int], least: int, repeats: int, out: str | Path | None
) -> list[int]:
    """The numbers of frames in order. LociError for what cannot be measured or written."""
    if not frames or min(frames) < least:
        few = f"{least} frame" + "s" * (least > 1)
        raise LociError(f"memory is measured after {few} or more; give --frames 25,100,400")
    if repeats < 1:
        raise LociError(f"{repeats} repeats measure nothing; give --repeats 1 or more")
    if out is not None and Path(out).is_dir():
        raise LociError(f"{out} is a folder; name a file in it")
    return sorted(set(frames))


def machine(device: torch.device) -> dict[str, Any]:
    """Of a protocol: what was measured on, and with which code."""
    return {
        "seed": SEED, "commit": commit(), "device": device_name(device), "cpu": cpu_features(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Median and quartiles, and of how many."""
    lo, median, hi = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "lo": float(lo), "hi": float(hi), "n": len(values)}


def table(results: Mapping[str, Any], spreads: bool = True) -> Table:
    """The results with rows side by side, a section for each number of frames.

    With quartiles it is about 120 characters wide, without them about 80.
    """
    protocol, rows = results["protocol"], results["rows"]
    what = r"medians \[quartiles]" if spreads else "medians (quartiles: --json)"
    found = Table(
        title=f"{what} of {protocol['repeats']} turns, {protocol['device']}, "
        f"{protocol['threads']} threads; chunks of {protocol['chunk']} frames, "
        f"{protocol['steps']} steps", title_justify="left", box=SIMPLE_HEAD,
        padding=(0, 1) if spreads else (0, 0),
    )
    for heading in (
        "frames", "row", "tokens", "kB", "write\nms", "evaluation\nms", "chunk\nms",
        f"chunk,\ntimes {FLOOR}",
    ):
        found.add_column(heading, justify="left" if heading == "row" else "right", no_wrap=True)

    for frames in rows[FLOOR]:
        for name, lengths in rows.items():
            costs = lengths[frames]
            found.add_row(
                frames, name, f"{costs['tokens']:,}", f"{costs['bytes'] / 1000:,.0f}",
                cell(costs["write_ms"], ".1f", spreads),
                cell(costs["evaluation_ms"], ".1f", spreads),
                cell(costs["chunk_ms"], ".0f", spreads), cell(costs["chunk_ratio"], ".2f", spreads),
            )
        found.add_section()
    return found


def cell(value: Mapping[str, float], form: str, spreads: bool) -> str:
    """A `spread` as text."""
    text = format(value["median"], form)
    return f"{text} [{value['lo']:{form}}, {value['hi']:{form}}]" if spreads else text


def parse_frames(text: str) -> tuple[int, ...]:
    """"25,100,400" as numbers; LociError for what is none."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise LociError(f"'{text}' are no numbers of frames; give some like 25,100,400") from error
