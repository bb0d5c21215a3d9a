"""The study of policies as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from markupsafe import Markup

from loci import __version__
from loci.errors import LociError
from loci.io.files import atomic_write
from loci.report import policy_plots as plots
from loci.report import published
from loci.report.pages import read_results, template
from loci.report.panels import mp4
from loci.report.policy_claims import policy_claims
from loci.study.tabletop.closed_loop import FILM_FPS, read_lines
from loci.study.tabletop.policy_results import last_stage, percent

LIMIT = 2_000_000
"""Bytes of films that a page may have."""

SHRINK = 2
"""A film in a page is so many times smaller than the kept one, a side."""


def write_policy_report(out: str | Path, limit: int = LIMIT) -> Path:
    """Write out/report.html from results.json, training/ and episodes/ in the same folder.

    limit: see LIMIT. Logs and films that are gone are left out. Raises LociError where the results
    are missing or damaged, or the page cannot be written.
    """
    out = Path(out)
    results = read_results(out / "results.json")
    atomic_write(out / "report.html", render_policy_page(results, out, limit))
    return out / "report.html"


def render_policy_page(results: Mapping[str, Any], out: Path, limit: int = LIMIT) -> str:
    """The page as text."""
    protocol = results["protocol"]
    return template("policies.html.j2").render(
        version=__version__,
        protocol=protocol,
        wall=protocol["wall"],
        colors={row: plots.color(row) for row in protocol["rows"]},
        claims=policy_claims(results),
        table=_table(results),
        differences=_differences(results),
        stages=list(_stages(results)),
        published=_published(results),
        methods=published.METHODS,
        plots=_plots(results, out),
        frames=_frames(protocol),
        films=_films(results, out, limit),
    )


def _frames(protocol: Mapping[str, Any]) -> list[str]:
    """The numbers of frames after which it was asked what a memory holds."""
    return next(
        list(entry["held"]) for rows in protocol["entries"].values() for entry in rows.values()
    )


def _parts(rate: Mapping[str, Any] | None) -> tuple[str, str]:
    """(value, interval) of a rate in per cent."""
    value, _, interval = ("–" if rate is None else percent(rate)).partition(" ")
    return value, interval


def _table(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Floors, rows and ceilings, with success by task and hold, and the paper's own number."""
    protocol = results["protocol"]
    holds = [str(hold) for hold in protocol["holds"]]

    def cells(scores: Mapping[str, Mapping[str, Any]], row: str) -> list[dict[str, Any]]:
        return [
            {
                "scores": [_parts(scores[task].get(hold)) for hold in holds],
                "published": published.ROWS.get(task, {}).get(row),
                "called": published.NAMES.get(row, ""),
            }
            for task in results["success"]
        ]

    def reference(name: str, kind: str) -> dict[str, Any]:
        by_task = {
            task: {hold: found[hold][name] for hold in holds}
            for task, found in results["baselines"].items()
        }
        return {"name": name, "kind": kind, "cells": cells(by_task, name)}

    rows = [
        {
            "name": row, "kind": "row",
            "cells": cells({
                task: {hold: by_hold["success"] for hold, by_hold in found.get(row, {}).items()}
                for task, found in results["success"].items()
            }, row),
        }
        for row in protocol["rows"]
    ]
    return [
        *(reference(name, "floor") for name in protocol["floors"]), *rows,
        *(reference(name, "ceiling") for name in protocol["ceilings"]),
    ]


def _differences(results: Mapping[str, Any]) -> dict[str, Any]:
    """Paired differences of success in points, a line for each task and hold that has any."""
    lines = [
        (task, hold, found)
        for task, by_hold in results["differences"].items() for hold, found in by_hold.items()
        if found
    ]
    names = list(dict.fromkeys(name for _, _, found in lines for name in found))
    return {
        "names": [name.replace(" - ", " − ") for name in names],
        "lines": [
            (task, hold, [_parts(found.get(name)) for name in names])
            for task, hold, found in lines
        ],
    }


def _stages(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """How far every row came, and how it failed, for each task and hold."""
    for task, rows in results["success"].items():
        for hold in map(str, results["protocol"]["holds"]):
            names = results["protocol"]["tasks"][task]["stages"]
            yield {
                "task": task, "hold": hold, "names": names,
                "rows": [
                    {
                        "name": row,
                        "right": _parts(last_stage(by_hold[hold])),
                        "cells": [_parts(by_hold[hold]["stages"][name]["all"]) for name in names],
                        "failures": ", ".join(
                            f"{kind or 'at the limit'} {count}"
                            for kind, count in by_hold[hold]["failures"].items()
                        ),
                        "chunks": f"{by_hold[hold]['chunks']:g}",
                    }
                    for row, by_hold in rows.items()
                ],
            }


def _published(results: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """(task, success of each method) of the tasks that the paper has."""
    known = published.SUCCESS
    return [(task, list(known[task])) for task in results["success"] if task in known]


def _plots(results: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    curves, protocol = _curves(results, out), results["protocol"]
    held = _frames(protocol)
    found = [
        (
            plots.held(results),
            "Success in closed loop: full, the fact held as long as in training; pale, "
            f"{protocol['holds'][-1]} times as long. Lines are 95 % intervals.",
        ),
        (
            plots.size(results),
            "What memory buys: success (fact held as in training) against the bytes that one "
            f"robot's memory holds after {held[0]} frames. The line goes on to what it holds after "
            f"{held[-1]}.",
        ),
    ]
    if curves:
        found.append((
            plots.learning(results, curves),
            "Training: loss of every row against steps, mean of five lines of the log.",
        ))
    return [{"svg": Markup(drawn), "text": text, "wide": True} for drawn, text in found]


def _curves(results: Mapping[str, Any], out: Path) -> dict[str, dict[str, list[Any]]]:
    """(step, loss) of each line of the logs that are there."""
    found: dict[str, dict[str, list[Any]]] = {}
    for task, rows in results["success"].items():
        for row in rows:
            lines = read_lines(out / "training" / f"{task}-{row}" / "train.jsonl")
            points = [(line["step"], line["loss"]) for line in lines if line.get("loss")]
            if points:
                found.setdefault(task, {})[row] = points
    return found


def _films(results: Mapping[str, Any], out: Path, limit: int) -> list[dict[str, Any]]:
    """A success of the best row and a failure of the worst one, for each task, of those filmed."""
    found, size = [], 0
    for task, rows in results["success"].items():
        best = sorted(rows, key=lambda row: -rows[row]["1"]["success"]["hits"])
        for wanted, order in ((True, best), (False, best[::-1])):
            for row, line, file in _filmed(task, order, out):
                if line["success"] != wanted:
                    continue
                video = mp4(_shrunk(file), FILM_FPS)
                if size + len(video) <= limit:
                    size += len(video)
                    ending = "success" if wanted else f"failed: {line['failure'] or 'at the limit'}"
                    found.append({
                        "title": f"{task} · {row}", "video": video,
                        "text": f"Episode {line['episode']}, {line['chunks']} chunks; {ending}.",
                    })
                break
    return found


def _filmed(
    task: str, rows: list[str], out: Path
) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """The episodes of which there is a film."""
    for row in rows:
        folder = out / "episodes" / f"{task}-{row}-hold1"
        for line in read_lines(folder / "episodes.jsonl")[1:]:
            file = folder / "videos" / f"{line['episode']:03d}.mp4"
            if file.exists():
                yield row, line, file


def _shrunk(file: Path) -> np.ndarray:
    """The pictures of a film, uint8 (T, H, W, 3), smaller, with even sides."""
    try:
        with av.open(str(file)) as container:
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    except (OSError, av.FFmpegError) as error:
        raise LociError(f"{file} is damaged ({error}); delete it") from error
    small = np.stack(frames)[:, ::SHRINK, ::SHRINK]
    return small[:, : small.shape[1] // 2 * 2, : small.shape[2] // 2 * 2]
