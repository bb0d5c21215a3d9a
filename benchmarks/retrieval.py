"""How much of what was seen before does each retrieval rule bring back, and how long does it take?
No model is involved.

    python benchmarks/retrieval.py [--cases 64] [--flats 24] [--counts 4,19] [--frames 10000]
        [--json] [--out FILE]

- Coverage: held-out rooms, each along every recall path of the study and a random walk of 129
  frames, and held-out flats, where walls hide things, along paths through doors and a walk. The way
  back goes chunk by chunk, all frames before a chunk being its past. A pixel of the chunk counts
  when any past frame shows its point in space (exact depth, so not behind an object); the score is
  the share of those pixels that the first, the last and the retrieved frames show. `floor`
  retrieves nothing, `oracle` knows what every past frame shows and takes the best one by one;
  `cascade` and `surfels` know the depth of past frames, the others poses alone. Means of the rooms'
  shares with 95 % bootstrap intervals over rooms, and paired gains over `overlap`; and how many
  frames a rule takes for a chunk, of those that it may.
- Queries: walks through one flat, again and again. Medians and quartiles of the milliseconds that
  a view index takes for a chunk after some numbers of frames, and to take in one frame.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import tyro
from torch import Tensor

from loci.data.cases import Case, make_cases
from loci.errors import LociError
from loci.geometry import Camera, relative_to
from loci.geometry.depth import intrinsics_of
from loci.geometry.scene_map import View
from loci.geometry.views import ViewIndex
from loci.memory import Context
from loci.memory.retrieval import RETRIEVALS
from loci.memory.views import EVIDENCE
from loci.study.estimates import Tally, bootstrap, paired_bootstrap, spread
from loci.study.provenance import BOOTSTRAP
from loci.worlds.render.visibility import DEPTH_TOLERANCE, best_frames, covered, visibility
from loci.worlds.rooms.courses import (
    DOOR_BESIDE,
    DOOR_HOME,
    RECALL_COURSES,
    ROUND,
    Course,
    interior_of,
    way_through,
)
from loci.worlds.rooms.flat import Flat, sample_flat
from loci.worlds.rooms.flat_paths import wander_flat
from loci.worlds.rooms.paths import CHUNK, Path, wander
from loci.worlds.rooms.room import Room, sample_room
from protocol import Output, protocol, save

WANDER = Course("wander129", "wander", frames=129, out=65)
FLAT_WANDER = Course("flat-wander129", "wander", frames=129, out=65)
# Of the paths through flats those that do not repeat their poses.
FLATS = (DOOR_HOME, DOOR_BESIDE, ROUND, FLAT_WANDER)
COURSES = (*RECALL_COURSES, WANDER, *FLATS)
VIEWS = {"cascade": ViewIndex.cover, "surfels": ViewIndex.vote}
ROWS = ("floor", *RETRIEVALS, *VIEWS, "oracle")
MOMENTS = (100, 1000, 10_000)


@dataclass
class Options(Output):
    cases: int = 64  # rooms
    flats: int = 24
    counts: str = "4,19"  # frames retrieved: context-5's and context-20's
    frames: int = 10_000  # among which queries look
    around: int = 50  # queries and writes that are timed around each number of frames
    threads: int = 1


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    counts, camera, reach = [int(c) for c in options.counts.split(",")], Camera(), Context().reach
    results = {}
    for course in COURSES:
        number = options.flats if course in FLATS else options.cases
        cases = make_cases("heldout", (course,), number)
        shares = [score(case, counts, camera, reach) for case in cases]
        for count in counts:
            rows = {row: [Tally(share[count, row][0]) for share in shares] for row in ROWS}
            results.setdefault(str(count), {})[course.name] = {
                row: {
                    **summary(rows[row], rows["overlap"]),
                    "frames": fmean(share[count, row][1] for share in shares),
                }
                for row in ROWS
            }
        print(f"{course.name}: {len(cases)} cases done", file=sys.stderr)
    settings = {
        "counts": counts, "split": "heldout", "chunk": CHUNK, "camera": camera.to_dict(),
        "reach": reach, "depth_tolerance": DEPTH_TOLERANCE,
    }
    queries = timed(camera, counts[0], options)
    made = protocol(
        options, {row: {"retrieval": row, **settings} for row in ROWS}, seed=0,
        cases=options.cases, **settings, bootstrap=BOOTSTRAP, dtypes=(torch.float64,),
        flats={"cases": options.flats, "paths": [course.name for course in FLATS]},
        around=options.around,
        spread="coverage: 95 % bootstrap intervals over rooms, gains over `overlap` in the same "
        "rooms; milliseconds: medians and quartiles",
    )
    save(options, {"protocol": made, "coverage": results, "queries": queries}, "\n".join([
        tables(results), *(
            f"{what} {n} frames: {took['median']:.1f} ms"
            for what, found in queries.items() for n, took in found.items()
        ),
    ]))


def score(
    case: Case, counts: list[int], camera: Camera, reach: float
) -> dict[tuple[int, str], tuple[float, float]]:
    """The share of previously seen pixels that each (count, row) covers on the way back, and how
    many frames it takes for a chunk."""
    room, path = walked(case)
    end, out = case.course.frames or len(path.poses), case.course.out or path.out
    views = room.render(path.poses[:end], camera)
    table = visibility(views.depth, views.poses, out, camera)
    absolute = torch.from_numpy(views.poses)[None]
    poses = relative_to(absolute[:, 0], absolute)  # as the model has them
    index = ViewIndex()
    rows = [(count, row) for count in counts for row in ROWS]
    seen, hits, taken = 0, dict.fromkeys(rows, 0), dict.fromkeys(rows, 0)
    starts = range(out, end, CHUNK)
    for start in starts:
        chunk = slice(start, start + CHUNK)
        shown = table[:start, start - out : start - out + CHUNK]
        seen += int(shown.any(axis=0).sum())
        for n in range(len(index), start):
            index.add(as_view(torch.from_numpy(views.depth[n]), poses[0, n], camera, n))
        for count in counts:
            picks = {
                name: rule(poses[:, :start], poses[:, chunk], camera, count, reach)[0].tolist()
                for name, rule in RETRIEVALS.items()
            }
            picks |= {
                name: ask(index, name, poses[0, chunk], camera, count, start) for name in VIEWS
            }
            picks |= {"floor": [], "oracle": best_frames(shown, count)}
            for row in ROWS:
                hits[count, row] += covered(shown, [0, start - 1, *picks[row]])
                taken[count, row] += len(picks[row])
    if not seen:
        raise LociError(f"case {case.key} sees nothing again; take a path that returns")
    return {key: (hits[key] / seen, taken[key] / len(starts)) for key in rows}


def walked(case: Case) -> tuple[Room | Flat, Path]:
    """The room or flat of a case, and the path through it."""
    frames = case.course.frames or 0
    if case.course is WANDER:
        room = sample_room(case.seed, case.split)
        return room, wander(room.start, case.seed, room, frames - 1)
    if case.course is FLAT_WANDER:
        flat = sample_flat(case.seed, case.split)
        return flat, wander_flat(flat, case.seed, frames - 1)
    interior = interior_of(case.course.path, case.seed, case.split)
    return interior, way_through(case.course.path, interior)


def as_view(depth: Tensor, pose: Tensor, camera: Camera, frame: int) -> View:
    known = torch.where(depth.isfinite(), depth, 0.0)
    return View(known, torch.zeros(0), intrinsics_of(camera), pose, frame)


def ask(
    index: ViewIndex, rule: str, poses: Tensor, camera: Camera, count: int, written: int
) -> list[int]:
    """Frames for a chunk at poses (n, 4, 4), beside the first and the last of those written."""
    return VIEWS[rule](
        index, poses, intrinsics_of(camera), camera.height, camera.width, count, [0, written - 1],
        EVIDENCE,
    ).frames


def timed(camera: Camera, count: int, options: Options) -> dict[str, Any]:
    """Milliseconds of a query and of a write, after some numbers of frames."""
    moments = [n for n in MOMENTS if n <= options.frames]
    took: dict[str, dict[str, list[float]]] = {
        what: {str(n): [] for n in moments} for what in (*VIEWS, "write")
    }
    index, flat = ViewIndex(), sample_flat(0, "heldout")
    # Chunks of a walk that is none of those that were written.
    ahead = torch.from_numpy(wander_flat(flat, 10**6, CHUNK * options.around).poses)
    chunks = ahead[1:].unflatten(0, (-1, CHUNK))

    def clock(what: str, moment: int, began: float) -> None:
        took[what][str(moment)].append(1000 * (time.perf_counter() - began))

    for view in walks(flat, camera, max(moments, default=0)):
        began = time.perf_counter()
        index.add(view)
        for moment in moments:
            if moment - options.around <= view.frame < moment:
                clock("write", moment, began)
        if len(index) in moments:
            for rule in VIEWS:
                ask(index, rule, chunks[0], camera, count, len(index))  # what was added is laid out
                for chunk in chunks:
                    began = time.perf_counter()
                    ask(index, rule, chunk, camera, count, len(index))
                    clock(rule, len(index), began)
    return {
        what: {moment: spread(values) for moment, values in found.items()}
        for what, found in took.items()
    }


def walks(flat: Flat, camera: Camera, frames: int, length: int = 257) -> Iterator[View]:
    """Random walks through one flat, rendered as they come."""
    number = 0
    while number < frames:
        poses = wander_flat(flat, number, length - 1).poses
        views = flat.render(poses[: frames - number], camera)
        for depth, pose in zip(views.depth, views.poses, strict=True):
            yield as_view(torch.from_numpy(depth), torch.from_numpy(pose), camera, number)
            number += 1


def summary(row: list[Tally], overlap: list[Tally]) -> dict:
    """The mean share of one row, and its gain over `overlap` in the same rooms."""
    mean, gain = bootstrap(row), paired_bootstrap(row, overlap)
    assert mean is not None
    assert gain is not None
    return {**mean.to_dict(), "gain": gain.to_dict()}


def tables(results: dict) -> str:
    """Markdown: a table for each count, in %, and the frames that a rule takes for a chunk."""
    lines = []
    for count, paths in results.items():
        lines.append(f"| {count} frames | " + " | ".join([*paths, "frames taken"]) + " |")
        lines.append("|---" * (len(paths) + 2) + "|")
        for row in ROWS:
            cells = [
                "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * p[row][k] for k in ("mean", "lo", "hi")))
                for p in paths.values()
            ]
            cells.append(f"{fmean(p[row]['frames'] for p in paths.values()):.1f}")
            lines.append(f"| `{row}` | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Options))
