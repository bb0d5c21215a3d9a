"""What a page shows of a study of rooms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loci.io.json_files import read_json
from loci.report.pictures import TRUTH, Shown, load_shown, strip
from loci.report.plots import Panel, per_row, retention, scatter
from loci.report.texts import TEXTS
from loci.study.estimates import NOTHING
from loci.study.rooms.branches import BRANCHES
from loci.study.rooms.renders import KNOWN, SHOWN
from loci.study.rooms.results import cell, kind_of, table
from loci.study.rooms.rollouts import MEMORIES
from loci.study.tables import Grid, Line

CHANCE = 1 / 8
FEW = 7  # memories in the picture that the page opens with
Results = Mapping[str, Any]
Pictures = Sequence[tuple[Shown, dict[str, Any]]]
main = table


def words(results: Results) -> dict[str, Any]:
    """For the page's sentences."""
    protocol = results["protocol"]
    return {"rows": len(protocol["rows"]), "cases": protocol["case_count"]}


def merits(results: Results) -> dict[str, float]:
    """By what rows of a family are sorted."""
    return {row: s["mean"] for row, s in _scores(results, "recall", "identity_later").items()}


def scored_cases(results: Results, out: Path) -> dict[str, Any]:
    """What cases.json holds; where it is gone, of the finished parts of the same cases."""
    if (out / "cases.json").exists():
        return read_json(out / "cases.json", "run `loci study` again")
    found: dict[str, Any] = {}
    for branch, keys in results["protocol"]["cases"].items():
        for row in results["rows"]:
            part = out / "parts" / f"{branch}.{row}.json.gz"
            if part.exists() and len(scored := read_json(part)["cases"]) == len(keys):
                found.setdefault(branch, {})[row] = dict(zip(keys, scored, strict=True))
    return found


def _scores(results: Results, branch: str, metric: str) -> dict[str, Any]:
    """row -> a score, of the rows that have it."""
    return {
        row: score for row in results["protocol"]["rows"]
        if (score := results["rows"].get(row, {}).get(branch, {}).get(metric))
    }


def plots(results: Results, of_rows: Mapping[str, str], out: Path) -> dict[str, str]:
    """Name -> SVG; the first of them stands at the beginning of the page."""

    def scores(branch: str, *metrics: str) -> list[dict[str, Any]]:
        return [_scores(results, branch, metric) for metric in metrics]

    cost, probe, branches = results["cost"], results["probe"], results["protocol"]["cases"]
    drawn: dict[str, str] = {}
    (later,) = scores("recall", "identity_later")
    if held := {row: s for row, s in later.items() if row in cost}:
        panel = Panel("", [held], CHANCE, {row: [cost[row]["bytes"]] for row in held})
        drawn["size"] = scatter("What comes back against bytes held", [panel], of_rows,
                                "held after 40 frames", "identity of later objects, %")
    (seen,) = scores("recall", "psnr_seen")
    if held.keys() & seen.keys():
        both = {row: seen[row] for row in held if row in seen}
        panel = Panel("", [both], None, {row: [cost[row]["bytes"]] for row in both})
        drawn["sharp"] = scatter("Detail against bytes held", [panel], of_rows,
                                 "held after 40 frames", "PSNR of pixels seen before, dB",
                                 share=False)
    if "recall" in branches:
        panels = [
            Panel(title, scores(branch, "identity_later", "identity_first"), CHANCE)
            for branch, title in (("recall", "held-out rooms"), ("open-recall", "open domain"))
            if branch in branches
        ]
        drawn["identity"] = per_row("Which object came back", panels, of_rows, "identity, %", 100)
        ceiling = results["rows"].get("codec", {}).get("recall", {}).get("psnr_seen")
        drawn["pixels"] = per_row(
            "PSNR of the way back", [Panel("", scores("recall", "psnr_seen", "psnr_revealed"))],
            of_rows, "PSNR, dB", dots=True, lines={"codec": ceiling["mean"]} if ceiling else None,
        )
        for axis, unit in (("absence", "frames out of view"), ("travelled", "metres travelled")):
            curves = {row: c[axis] for row, c in results["retention"].items() if row in of_rows}
            drawn[axis] = retention(f"Retention by {unit}", curves, of_rows, unit, CHANCE)
    if probe:
        read = {n: s["identity_later"] for n, s in probe.items() if "identity_later" in s}
        written = {
            n: 100 * s["which_later"]["mean"] for n, s in probe.items() if "which_later" in s
        }
        both = {name: score for name, score in read.items() if name in written}
        panel = Panel("", [both], None, {name: [written[name]] for name in both})
        marks = {name: x for name, x in written.items() if name not in of_rows}
        drawn["probe"] = scatter(
            "Written against read", [panel], of_rows, "written: a probe names the object, %",
            "read: generation shows it, %", log=False, lines=marks,
        )
    if "causal" in branches:
        series = scores("causal", *(f"identity_later_{memory}" for memory in MEMORIES))
        drawn["causal"] = per_row("Identity with other memories", [Panel("", series, CHANCE)],
                                  of_rows, "identity, %", 100)
    if "loop" in branches:
        drawn["loop"] = per_row("Mirrored pairs", [Panel("", scores("loop", "pair_psnr",
                                "pair_margin"))], of_rows, "dB", dots=True)
    return drawn


def pictures(
    results: Results, of_rows: Mapping[str, str], cases: Mapping[str, Any], out: Path, limit: int
) -> tuple[Pictures, list[Any]]:
    """The shown cases, with videos as long as the page stays small enough to be sent around."""
    found, size = [], 0
    rows = [SHOWN, KNOWN, *of_rows]
    there = [shown for branch in BRANCHES for shown in load_shown(out, branch, rows)]
    most = max((len(shown.videos) for shown in there), default=0)
    for shown in there:
        # Frames of an earlier study in the same folder are not this one's, and where most rows'
        # frames are gone there is nothing to compare.
        scored = any(shown.case in rows for rows in cases.get(shown.branch, {}).values())
        if not scored or 2 * len(shown.videos) < most:
            continue
        panel = strip(shown, _outcomes(shown, cases), list(shown.videos))
        size += sum(len(c["src"]) for row in panel["rows"] for c in row["cells"])
        if found and size > limit:
            break
        film = shown.played()
        film = None if film is None or size + len(film["src"]) > limit else film
        size += len(film["src"]) if film is not None else 0
        split, course, seed = shown.case.split("/")
        given = f"frames 0 to {shown.observed - 1} are" if shown.observed > 1 else "frame 0 is"
        found.append((shown, panel | {
            "title": f"{shown.branch} · {course}", "video": film,
            "text": f"Room {seed} ({split}); {given} given, the rest is generated.",
        }))
    return found, []


def _outcomes(shown: Shown, cases: Mapping[str, Any]) -> dict[str, Any]:
    """row -> outcomes of its objects in a case."""
    return {
        (TRUTH if row == "ground-truth" else row): by_case[shown.case]["objects"]
        for row, by_case in cases.get(shown.branch, {}).items()
        if shown.case in by_case and (row in shown.videos or row == "ground-truth")
    }


def picture(
    panels: Pictures, of_rows: Mapping[str, str], results: Results, cases: Mapping[str, Any]
) -> Any:
    """First frame, away and return of one case: the truth beside a few memories, of many the best
    of each family and the worst. of_rows has the best of a family first."""
    shown, _ = panels[0]
    there = [row for row in of_rows if row in shown.videos]
    if len(there) > FEW:
        merit = merits(results)
        best = {of_rows[row]: row for row in reversed(there)}.values()
        there = [row for row in there if row in {*best, min(there, key=lambda r: merit.get(r, 0))}]
    return strip(shown, _outcomes(shown, cases), [TRUTH, *there], columns=3)


def tables(results: Results) -> Iterator[Grid]:
    """All metrics of each branch."""
    found = {
        branch: {row: s[branch] for row, s in results["rows"].items() if branch in s}
        for branch in results["protocol"]["cases"]
    }
    found["probe"] = results["probe"]
    for branch, scores in ((branch, scores) for branch, scores in found.items() if scores):
        metrics = list(dict.fromkeys(m for score in scores.values() for m in score))
        counts = {m: max(s[m]["n"] for s in scores.values() if m in s) for m in metrics}
        heads = [
            f"{TEXTS['glossary'].get(m, [m.replace('_', ' ')])[0]}, n {counts[m]}" for m in metrics
        ]
        paths = [c.name for c in BRANCHES[branch].courses] if branch in BRANCHES else ["loop180"]
        yield Grid(
            f"{TEXTS['rooms']['branches'][branch]} Paths: {', '.join(paths)}.", ["row", *heads],
            [Line(row, [cell(m, s.get(m)) for m in metrics], kind_of(row, results["protocol"]))
             for row, s in scores.items()],
        )


def glossary(results: Results) -> list[tuple[str, str]]:
    """The explanations of the metrics that occur."""
    trees = [*(branches for branches in results["rows"].values()), results["probe"]]
    found = {metric for tree in trees for scores in tree.values() for metric in scores}
    return [(name, text) for metric, (name, text) in TEXTS["glossary"].items() if metric in found]


def made(results: Results) -> Grid:
    """What each row is, and what it holds."""
    protocol, cost = results["protocol"], results["cost"]
    heads = ["row", "config", "checkpoint (sha256)", "parameters", "tokens at 40 frames",
             "of full history", "bytes at 40 frames", "at 400", "ms a chunk"]
    lines = []
    for name, row in protocol["rows"].items():
        cells = [row["config"], row["checkpoint_sha256"][:12], f"{row['parameters']:,}"]
        if c := cost.get(name):
            cells += [
                f"{c['tokens']:,}", f"{100 * c['tokens'] / c['full_history_tokens']:.0f} %",
                f"{c['bytes']:,}", f"{c['bytes_at_400']:,}",
                str(protocol["wall"]["milliseconds_per_chunk"][name]),
            ]
        lines.append(Line(name, cells + [NOTHING] * (len(heads) - 1 - len(cells)), "made"))
    return Grid("What was run, and what it holds.", heads, lines)
