"""`loci bench`: what memory costs, row beside row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loci.errors import LociError
from loci.io.files import atomic_write, check_file
from loci.io.json_files import to_json
from loci.study.bench.bench import REPEATS
from loci.study.bench.policies import FRAMES as POLICY_FRAMES
from loci.study.bench.policies import PolicyBench
from loci.study.bench.rooms import FRAMES, RoomsBench
from loci.study.run import run
from loci.study.store import Store
from loci.study.tables import Grid, Line

# (heading, act, "ms" or "ratio", format): what the tables show of a row.
ROOMS = (
    ("write\nms", "write", "ms", ".1f"), ("evaluation\nms", "evaluation", "ms", ".1f"),
    ("chunk\nms", "chunk", "ms", ".0f"),
    (f"chunk,\ntimes {RoomsBench.floor}", "chunk", "ratio", ".2f"),
)
POLICIES = (
    ("observe\nms", "observe", "ms", ".1f"), ("step\nms", "step", "ms", ".2f"),
    (f"step, times\n{PolicyBench.floor}", "step", "ratio", ".2f"), ("act\nms", "act", "ms", ".1f"),
    ("attention,\ntimes bare", "attention", "ratio", ".2f"),
)


def bench(
    policy: str | None = None,
    rows: Sequence[str] | None = None,
    frames: Sequence[int] | None = None,
    repeats: int = REPEATS,
    memory: float | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure rows of the rooms, or of a policy of this size, and write the file `out`.

    memory: gigabytes that all rows may take together. See `Bench.play` for what is returned. Raises
    LociError for an unknown row and for numbers that cannot be, before anything is measured.
    """
    limit = None if memory is None else 1e9 * memory
    suite = (
        RoomsBench(rows, frames or FRAMES, repeats, limit) if policy is None
        else PolicyBench(policy, rows, frames or POLICY_FRAMES, repeats, limit)
    )
    if out is not None:
        check_file(out)
    results = run(suite, Store("."))
    if out is not None:
        atomic_write(out, to_json(results))
    return results


def tables(results: Mapping[str, Any]) -> list[Grid]:
    """Rows side by side for each number of frames, and the rows that are compared."""
    protocol, rows = results["protocol"], results["rows"]
    size, floor = protocol.get("size"), next(iter(results["rows"].values()))
    shown, unit, form = (ROOMS, "kB", ",.0f") if size is None else (POLICIES, "MB", ",.1f")
    work = f"chunks of {protocol['chunk']} frames" if size is None else (
        f"{protocol['horizon']} actions"
    )
    grid = Grid(
        ("" if size is None else f"size {size}: ")
        + f"medians [quartiles] of {protocol['repeats']} turns, {protocol['device']}, "
        f"{protocol['threads']} threads, {protocol['dtype']}; {protocol['steps']} steps for {work}",
        ["frames", "row", "tokens", unit, *(heading for heading, *_ in shown)],
    )
    for frames in floor:
        for name, lengths in rows.items():
            costs = lengths[frames]
            bytes_held = costs["bytes"] / {"kB": 1e3, "MB": 1e6}[unit]
            cells = [name, f"{costs['tokens']:,}", f"{bytes_held:{form}}"]
            if "left_out" in costs:
                cells += ["left out", *[""] * (len(shown) - 1)]
            else:
                cells += [spread_text(costs[f"{act}_{what}"], f) for _, act, what, f in shown]
            grid.lines.append(Line(frames, cells))
    if not results.get("compared"):
        return [grid]
    second = Grid("rows compared, turn by turn", ["", *floor, "target"])
    for pair, ratios in results["compared"].items():
        cells = [spread_text(ratios[n], ".2f") if n in ratios else "" for n in floor]
        second.lines.append(Line(pair, [*cells, ratios["target"]]))
    return [grid, second]


def spread_text(value: Mapping[str, float], form: str) -> str:
    """A median with its quartiles."""
    return f"{value['median']:{form}} [{value['lo']:{form}}, {value['hi']:{form}}]"


def parse_frames(text: str) -> tuple[int, ...]:
    """"25,100,400" as numbers; LociError for what is none."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise LociError(f"'{text}' are no numbers of frames; give some like 25,100,400") from error
