"""A results folder as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from loci import __version__
from loci.io.files import atomic_write
from loci.report import plots
from loci.report.claims import claims
from loci.report.pages import read_results, template
from loci.report.panels import Shown, load_shown, mosaic, mp4, strip
from loci.study.results import COLUMNS, cell
from loci.study.rooms.branches import BRANCHES
from loci.study.rooms.probe import PROBED

LIMIT = 11_000_000
"""Bytes of pictures and videos that a page may have; beyond it, videos go first, then panels."""

MANY = 8
"""Rows beyond which every plot takes the page's whole width."""

METRICS: dict[str, tuple[str, str]] = {
    "identity_later": (
        "Identity, later (%)",
        "An object that was first seen after the first frame, left the view and is back: is it "
        "nearer, pixel by pixel, to a rendering of itself than to seven other objects in its "
        "place? Three of those share its colour, three its shape. Guessing gives 12.5 %.",
    ),
    "identity_first": (
        "Identity, first (%)",
        "The same for objects of the first frame. Keeping that one frame is enough here, so it is "
        "not counted as memory.",
    ),
    "layout_later": (
        "Layout, later (%)",
        "The object fits best within 2 pixels of its true place, among shifts of up to 8. Guessing "
        "gives 9 %.",
    ),
    "layout_first": ("Layout, first (%)", "The same for objects of the first frame."),
    "psnr_seen": (
        "PSNR, seen (dB)",
        "Closeness to the truth on pixels whose surface was visible in an observed frame, decided "
        "by exact depth.",
    ),
    "psnr_revealed": (
        "PSNR, revealed (dB)",
        "The same on pixels that nobody had seen: memory cannot help, a plausible guess can.",
    ),
    "psnr": ("PSNR (dB)", "Closeness to the truth over whole frames; 60 dB is identity."),
    "ssim": ("SSIM", "Similarity of structure (luminance, 7x7 windows); 1 is identity."),
    "ssim_seen": ("SSIM, seen", "SSIM on pixels seen before."),
    "ssim_revealed": ("SSIM, revealed", "SSIM on newly revealed pixels."),
    "pair_psnr": (
        "Pairs PSNR (dB)",
        "Everything is generated, out and back; frames of the return against the model's own "
        "frames of the way out at exactly the same poses. A still picture scores 60.",
    ),
    "pair_ssim": ("Pairs SSIM", "SSIM of the same pairs."),
    "pair_margin": (
        "Pairs margin (dB)",
        "How much more alike mirrored pairs are than frames of different poses: a blank wall or a "
        "still picture, consistent as it is, scores 0.",
    ),
    "detail": ("Detail", "Sharpness as a share of the truth's: a blank wall is 0."),
    "movement": (
        "Movement", "Change from frame to frame as a share of the truth's: a still is 0.",
    ),
    "which_later": (
        "Written: which, later (%)",
        "A linear probe on the memory's state names the object, of the same eight, at places first "
        "seen after the first frame. Guessing gives 12.5 %.",
    ),
    "which_first": ("Written: which, first (%)", "The same for objects of the first frame."),
    "there": (
        "Written: there (%)",
        "Of two variants of a room, one with an object at a place and one without, the probe says "
        "which is which. Guessing gives 50 %.",
    ),
    "where": ("Written: where (degrees)", "By how much the probe misses an object's direction."),
    "turn": ("Written: turn (degrees)", "By how much it misses how the object is turned."),
    "lpips_alex": ("LPIPS (AlexNet)", "Perceptual distance; less is better."),
}

BRANCH_TEXT = {
    "replay": "Replay: three chunks from the first frame, against the truth. Health, not memory.",
    "recall": "Recall: the way out is observed, the way back is generated.",
    "causal": "Causal check: recall with true, empty, shuffled and another room's memory.",
    "loop": "Loop: everything is generated, out and back.",
    "open-recall": "Open-domain recall: shapes, colours and walls that training never showed.",
    "open-loop": "Open-domain loop.",
    "probe": "Probe: what the state holds after the way out, and what generation makes of it.",
}
COURSES = {b.name: b.courses for b in BRANCHES.values()} | {"probe": (PROBED,)}


def write_report(out: str | Path, limit: int = LIMIT) -> Path:
    """Write out/report.html from results.json, cases.json and rollouts/ in the same folder.

    limit: see LIMIT.
    Raises LociError where one of them is missing or damaged, or the page cannot be written.
    """
    out = Path(out)
    results, cases = read_results(out / "results.json"), read_results(out / "cases.json")
    page = render_page(results, cases, out, limit)
    atomic_write(out / "report.html", page)
    return out / "report.html"


def render_page(
    results: Mapping[str, Any], cases: Mapping[str, Any], out: Path, limit: int = LIMIT
) -> str:
    """The page as text."""
    protocol = results["protocol"]
    names = list(protocol["rows"])
    probed = {row: {"probe": scores} for row, scores in results["probe"].items()}
    return template("page.html.j2").render(
        version=__version__,
        protocol=protocol,
        names=names,
        colors={name: plots.color(name, names) for name in names},
        cost=results["cost"],
        claims=claims(results, cases),
        key_table=_key_table(results),
        rankings=results.get("rankings", {}),
        tables=[
            _branch_table(rows, branch, protocol)
            for rows, branches in ((results["rows"], protocol["cases"]), (probed, ["probe"]))
            for branch in branches
            if rows
        ],
        metrics=_glossary(results["rows"], probed),
        plots=_plots(results, names),
        panels=_panels(out, names, cases, limit),
    )


def _kind(row: str, protocol: Mapping[str, Any]) -> str:
    if row in protocol["ceilings"]:
        return "ceiling"
    return "floor" if row in protocol["floors"] else "row"


def _cells(
    scores: Mapping[str, Any], columns: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """(mean, interval) of each (branch, metric)."""
    found = []
    for branch, metric in columns:
        score = scores.get(branch, {}).get(metric)
        mean, _, interval = cell(metric, score).partition(" ")
        found.append((mean, interval))
    return found


def _key_table(results: Mapping[str, Any]) -> dict[str, Any]:
    rows, protocol = results["rows"], results["protocol"]
    columns = [
        (b, m, h.replace("\n", " "))
        for b, m, h in COLUMNS
        if any(m in rows[r].get(b, {}) for r in rows)
    ]
    return {
        "headings": [h for _, _, h in columns],
        "rows": [
            {
                "name": row,
                "kind": _kind(row, protocol),
                "cells": _cells(scores, [(b, m) for b, m, _ in columns]),
                "tokens": results["cost"].get(row, {}).get("tokens", "–"),
            }
            for row, scores in rows.items()
        ],
    }


def _branch_table(
    rows: Mapping[str, Any], branch: str, protocol: Mapping[str, Any]
) -> dict[str, Any]:
    """All metrics of one branch."""
    shown = {row: scores for row, scores in rows.items() if branch in scores}
    metrics = list(dict.fromkeys(m for scores in shown.values() for m in scores[branch]))
    counts = {
        m: max(s[branch][m]["n"] for s in shown.values() if m in s[branch]) for m in metrics
    }
    return {
        "name": branch,
        "text": BRANCH_TEXT[branch],
        "courses": ", ".join(c.name for c in COURSES[branch]),
        "headings": [
            (METRICS.get(m, (m.replace("_", " "), ""))[0], counts[m]) for m in metrics
        ],
        "rows": [
            {
                "name": row,
                "kind": _kind(row, protocol),
                "cells": _cells(scores, [(branch, m) for m in metrics]),
            }
            for row, scores in shown.items()
        ],
    }


def _glossary(*tables: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The explanations of the metrics that occur."""
    rows = [branches for table in tables for branches in table.values()]
    found = {metric for row in rows for scores in row.values() for metric in scores}
    return [METRICS[m] for m in METRICS if m in found]


def _plots(results: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    rows, protocol = results["rows"], results["protocol"]
    branches = protocol["cases"]
    wanted = [
        (
            "recall", "identity", lambda: plots.identity(rows, names),
            "Which object came back? Pale: objects of the first frame. Full: objects first seen "
            "later, the ones that need memory. Lines are 95 % intervals.", True,
        ),
        (
            "recall", "pixels",
            lambda: plots.pixels(rows, names, protocol["ceilings"], protocol["floors"]),
            "PSNR of the way back. Full dots: pixels seen before. Hollow: newly revealed ones, "
            "where memory cannot help. Dashed: the codec's ceiling. Dotted: the mean image.", False,
        ),
        (
            "recall", "bytes", lambda: plots.memory_size(rows, names, results["cost"]),
            "What memory buys: identity of later objects against the bytes held at 40 frames.",
            False,
        ),
        (
            "recall", "absence",
            lambda: plots.kept(results["retention"], names, "absence", "frames out of view"),
            "Retention: identity of later objects, by how long they were gone. Dotted: chance.",
            False,
        ),
        (
            "recall", "travelled",
            lambda: plots.kept(
                results["retention"], names, "travelled", "metres that the camera went meanwhile"
            ),
            "The same, by how far the camera went before it saw them again.", False,
        ),
        (
            "recall", "probe",
            lambda: plots.written_and_read(results["probe"], names, results["cost"]),
            "Written against read, for later objects: a linear probe on the memory's state must "
            "name the one of eight that was there; generation must show it. Larger dots hold more "
            "bytes. Dotted: the probe on nothing, and on all latents that were seen.", False,
        ),
        (
            "causal", "causal", lambda: plots.causal(rows, names),
            "Is it memory? The same rollouts with true memory (full) and, ever paler, with an "
            "emptied one, with its frames at each other's poses and with another room's.", False,
        ),
        (
            "loop", "loop", lambda: plots.loop(rows, names),
            "The model's own world. Full dots: PSNR of mirrored pairs. Hollow: their margin over "
            "frames of other poses, which no still picture can have.", False,
        ),
    ]
    return [
        {"name": name, "svg": Markup(draw()), "text": text, "wide": wide or len(names) > MANY}
        for branch, name, draw, text, wide in wanted
        if branch in branches and (name != "bytes" or results["cost"])
        and (name != "probe" or results["probe"])
    ]


def _panels(
    out: Path, names: Sequence[str], cases: Mapping[str, Any], limit: int
) -> list[dict[str, Any]]:
    """The shown cases, with videos as long as the page stays small enough to be sent around."""
    found, size = [], 0
    for branch in BRANCHES.values():
        for shown in load_shown(out, branch.name, names):
            # Frames of an earlier study in the same folder are not this one's.
            if not any(shown.case in rows for rows in cases.get(branch.name, {}).values()):
                continue
            panel = _panel(shown, cases)
            pictures = sum(len(c["src"]) for row in panel["rows"] for c in row["cells"])
            if found and size + pictures > limit:
                return found
            size += pictures
            video = mp4(mosaic(shown))
            keep = size + len(video) < limit
            size += len(video) if keep else 0
            found.append(panel | {"video": video if keep else None})
    return found


def _panel(shown: Shown, cases: Mapping[str, Any]) -> dict[str, Any]:
    scored = cases.get(shown.branch, {})
    objects = {
        ("ground truth" if row == "ground-truth" else row): by_case[shown.case]["objects"]
        for row, by_case in scored.items()
        if shown.case in by_case and (row in shown.videos or row == "ground-truth")
    }
    split, course, seed = shown.case.split("/")
    given = (
        f"frames 0 to {shown.observed - 1} are given" if shown.observed > 1
        else "only the first frame is given"
    )
    return strip(shown, objects) | {
        "title": f"{shown.branch} · {course}",
        "text": f"Room {seed} ({split}); {given}, the rest is generated.",
        "scored": any(objects.values()),
    }
