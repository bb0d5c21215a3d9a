"""How much of what was seen before does each retrieval rule bring back? No model is involved.

    python benchmarks/retrieval.py [--cases 64] [--counts 4,19] [--json] [--out FILE]

Held-out rooms, each along every recall path of the study and a random walk of 129 frames. The way
back goes chunk by chunk, all frames before a chunk being its past. A pixel of the chunk counts when
any past frame shows its point in space (exact depth, so not behind an object); the score is the
share of those pixels that the first, the last and the retrieved frames show. `floor` retrieves
nothing, `oracle` knows what every past frame shows and takes the best one by one. Means of the
rooms' shares with 95 % bootstrap intervals over rooms, and paired gains over `overlap`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
import tyro

from loci.data.cases import Case, make_cases
from loci.errors import LociError
from loci.geometry import Camera, relative_to
from loci.memory import Context
from loci.memory.retrieval import RETRIEVALS
from loci.study.estimates import Tally, bootstrap, paired_bootstrap
from loci.study.provenance import BOOTSTRAP
from loci.worlds.render.visibility import DEPTH_TOLERANCE, best_frames, covered, visibility
from loci.worlds.rooms.courses import RECALL_COURSES, Course
from loci.worlds.rooms.paths import CHUNK, make_path, wander
from loci.worlds.rooms.room import sample_room
from protocol import Output, protocol, save

WANDER = Course("wander129", "wander", frames=129, out=65)
COURSES = (*RECALL_COURSES, WANDER)
ROWS = ("floor", *RETRIEVALS, "oracle")


@dataclass
class Options(Output):
    cases: int = 64  # rooms
    counts: str = "4,19"  # frames retrieved: context-5's and context-20's


def main(options: Options) -> None:
    counts, camera, reach = [int(c) for c in options.counts.split(",")], Camera(), Context().reach
    results = {}
    for course in COURSES:
        cases = make_cases("heldout", (course,), options.cases)
        shares = [score(case, counts, camera, reach) for case in cases]
        for count in counts:
            rows = {row: [Tally(share[count, row]) for share in shares] for row in ROWS}
            results.setdefault(str(count), {})[course.name] = {
                row: summary(rows[row], rows["overlap"]) for row in ROWS
            }
        print(f"{course.name}: {len(cases)} rooms done", file=sys.stderr)
    settings = {
        "counts": counts, "split": "heldout", "chunk": CHUNK, "camera": camera.to_dict(),
        "reach": reach, "depth_tolerance": DEPTH_TOLERANCE,
    }
    made = protocol(
        options, {row: {"retrieval": row, **settings} for row in ROWS}, seed=0,
        cases=options.cases, **settings, bootstrap=BOOTSTRAP, dtypes=(torch.float64,),
        spread="95 % bootstrap intervals over rooms; gains over `overlap` in the same rooms",
    )
    save(options, {"protocol": made, "coverage": results}, tables(results))


def score(case: Case, counts: list[int], camera: Camera, reach: float) -> dict:
    """The share of previously seen pixels that each (count, row) covers on the way back."""
    room, course = sample_room(case.seed, case.split), case.course
    if course is WANDER:
        path = wander(room.start, case.seed, room, course.frames - 1)
    else:
        path = make_path(course.path, room.start, case.seed, room)
    end, out = course.frames or len(path.poses), course.out or path.out
    views = room.render(path.poses[:end], camera)
    table = visibility(views.depth, views.poses, out, camera)
    absolute = torch.from_numpy(views.poses)[None]
    poses = relative_to(absolute[:, 0], absolute)  # as the model has them
    seen, hits = 0, {(count, row): 0 for count in counts for row in ROWS}
    for start in range(out, end, CHUNK):
        chunk = slice(start, start + CHUNK)
        shown = table[:start, start - out : start - out + CHUNK]
        seen += int(shown.any(axis=0).sum())
        for count in counts:
            picks = {
                name: rule(poses[:, :start], poses[:, chunk], camera, count, reach)[0].tolist()
                for name, rule in RETRIEVALS.items()
            }
            picks |= {"floor": [], "oracle": best_frames(shown, count)}
            for row in ROWS:
                hits[count, row] += covered(shown, [0, start - 1, *picks[row]])
    if not seen:
        raise LociError(f"case {case.key} sees nothing again; take a path that returns")
    return {key: hit / seen for key, hit in hits.items()}


def summary(row: list[Tally], overlap: list[Tally]) -> dict:
    """The mean share of one row, and its gain over `overlap` in the same rooms."""
    mean, gain = bootstrap(row), paired_bootstrap(row, overlap)
    assert mean is not None
    assert gain is not None
    return {**mean.to_dict(), "gain": gain.to_dict()}


def tables(results: dict) -> str:
    """Markdown: a table for each count, in %."""
    lines = []
    for count, paths in results.items():
        lines.append(f"| {count} frames | " + " | ".join(paths) + " |")
        lines.append("|---" * (len(paths) + 1) + "|")
        for row in ROWS:
            cells = [
                "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * p[row][k] for k in ("mean", "lo", "hi")))
                for p in paths.values()
            ]
            lines.append(f"| `{row}` | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Options))
