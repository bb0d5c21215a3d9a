"""Write results into the pages that show them: python docs/write_tables.py

Between `<!-- table: NAME -->` and `<!-- end -->` stands what `results/` holds, and nothing that was
typed. A test holds the pages to it.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from loci.recipes.registry import PREFIXES, STATED
from loci.report.texts import TEXTS
from loci.study.estimates import percent
from loci.study.rooms.renders import RENDERS
from loci.study.rooms.results import FLOOR, cell

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md", "docs/results.md", "docs/study.md", "docs/performance.md",
    "docs/tabletop.md", "docs/memory/context.md", "docs/memory/map.md", "docs/geometry.md",
    "docs/generate.md",
)
SPOT = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
INTERVAL = re.compile(r" \[([\d.-]+), ([\d.-]+)\]")
NOTHING = "–"
REFERENCES = {
    "mean-image": "mean image (floor)", "first-frame": "first frame repeated (floor)",
    FLOOR: f"`{FLOOR}` (floor)", "codec": "codec (ceiling)",
    **{name: f"{name.replace('-', ', ')} (no model)" for name in RENDERS},
}
# Baselines of the study of policies, as its table calls them.
HANDS = {
    "blind": "blind guess", "last-frame-only": "last frame only",
    "clock and frame": "clock and last frame", "oracle-state": "expert (oracle state)",
}

# The same on the page of the tabletop.
BASELINES = {
    "blind": "blind: guesses the cue once", "clock-only": "clock-only: the commonest answer then",
    "last-frame-only": "last-frame-only: answers as often as the expert did when it saw the same",
    "clock and frame": "clock and frame: the commonest answer then, when it saw the same",
    "oracle-state": "oracle-state: the expert",
}

# Echo-Memory's table (arXiv 2606.09803): replay PSNR, PSNR of mirrored pairs, and the judge's score
# of open-domain returns (0 to 100), of the rows that are ours too.
ECHO_MEMORY = {
    "context-1": (10.03, 10.32, 12.25), "joint-5": (11.92, 10.72, 50.75),
    "joint-20": (12.54, 11.07, 58.63), "weight": (8.65, 10.67, 22.38),
    "length-2": (7.84, 8.82, 24.00), "length-4": (9.88, 9.53, 43.25),
    "length-weight-2": (9.10, 7.87, 8.75), "length-weight-4": (9.63, 8.81, 9.00),
    "spatial": (13.60, 10.04, 6.00), "spatial-none": (14.66, 10.38, 15.50),
    "spatial-concat": (13.44, 9.35, 10.25), "spatial-cross-64": (13.52, 8.49, 17.12),
    "ssm-legacy": (12.69, 12.23, 34.75), "ssm-joint-5": (9.59, 11.95, 69.00),
}

Results = Mapping[str, Any]
# A heading, and what stands below it for a row.
Column = tuple[str, Callable[[Results, str], str]]


def score(heading: str, branch: str, metric: str) -> Column:
    """A metric of a branch with its interval."""
    return heading, lambda results, row: cell(
        metric, results["rows"][row].get(branch, {}).get(metric)
    )


def held(heading: str, name: str, unit: int = 1) -> Column:
    """What a row holds."""

    def show(results: Results, row: str) -> str:
        costs = results["cost"].get(row)
        return NOTHING if costs is None else f"{costs[name] / unit:,.0f}"

    return heading, show


def _written(results: Results, row: str) -> str:
    return cell("which_later", results["probe"].get(row, {}).get("which_later"))


def _added(results: Results, row: str) -> str:
    rows = results["protocol"]["rows"]
    if row not in rows:
        return NOTHING
    return f"{rows[row]['parameters'] - rows[FLOOR]['parameters']:,}"


def _milliseconds(results: Results, row: str) -> str:
    found = results["protocol"]["wall"]["milliseconds_per_chunk"].get(row)
    return NOTHING if found is None else f"{found:.0f}"


LATER = score("identity, later objects, %", "recall", "identity_later")
FIRST = score("identity, first objects, %", "recall", "identity_first")
SEEN = score("PSNR, pixels seen before, dB", "recall", "psnr_seen")
PAIRS = score("PSNR, mirrored pairs (loop), dB", "loop", "pair_psnr")
OPEN = score("identity, open domain, %", "open-recall", "identity_later")
WRITTEN: Column = ("written: which, later, %", _written)


def findings() -> str:
    """The findings of the README, with the figures of the results."""
    rooms, families, policies = _results("ground"), _results("families"), _results("wam")
    places = _results("geometry")

    def seen(row: str) -> str:
        return cell("psnr_seen", places["rows"][row]["recall"]["psnr_seen"])

    def in_flats(row: str) -> str:
        there = places["rows"][row]["flats"]
        return f"{cell('identity_later', there['identity_later'])} %"

    def later(row: str) -> str:
        return cell("identity_later", rooms["rows"][row]["recall"]["identity_later"])

    def success(row: str, hold: str) -> str:
        return percent(policies["success"]["press-button"][row][hold]["success"])

    share = rooms["cost"]["hybrid"]["tokens"] / rooms["cost"]["context-20"]["tokens"]
    held_by = {row: places["cost"][row]["bytes"] for row in ("spmem-joint-overlap", "context-20")}
    beside = held_by["spmem-joint-overlap"] / held_by["context-20"]
    read = cell("identity_later", families["rows"]["spatial"]["recall"]["identity_later"])
    written = cell("which_later", families["probe"]["spatial"]["which_later"])
    far = str(policies["protocol"]["holds"][-1])
    texts = (
        "**A few tokens a frame are enough to come back to.** Without memory the right object "
        f"returns in {later('none')} % of the cases, with raw frames in {later('context-20')} %, "
        f"with three gists a frame in {later('hybrid')} %, from {100 * share:.0f} % of the tokens.",
        "**To store is not to recall.** In the state of the spatial grid a linear probe finds "
        f"{written} % of the objects; generation brings {read} % back.",
        "**A policy can count for longer than it was shown.** Pressing two buttons as often as two "
        f"cards say succeeds in {success('hybrid', '1')} % of the episodes with gists, in "
        f"{success('window', '1')} % with a window; with every wait {far} times as long as in any "
        f"demonstration in {success('hybrid', far)} % and {success('window', far)} %.",
        "**A map says where, frames say what it looked like.** Drawn without any model, a map of "
        f"10 cm voxels shows what was seen before at {seen('render-10cm')} dB; a model that reads "
        f"it reaches {seen('map-channels')}, with five raw frames beside it "
        f"{seen('spmem-joint-overlap')}: as twenty frames without a map ({seen('context-20')}), "
        f"from {100 * beside:.0f} % of the bytes. Where "
        "depth is exact and voxels are fine, no model is needed: 2 cm show "
        f"{seen('render-2cm')} dB. Where walls hide what is near, twenty frames bring back "
        f"{in_flats('flats-context-20')} of the objects, a map with frames beside it "
        f"{in_flats('flats-spmem-joint-overlap')}.",
    )
    return "".join(
        textwrap.fill(f"{n}. {text}", 100, subsequent_indent="   ", break_on_hyphens=False) + "\n"
        for n, text in enumerate(texts, start=1)
    )


def ground() -> str:
    results = _results("ground")
    tokens = held("tokens at 40 frames", "tokens")
    return _studied(results, results["rows"], (LATER, FIRST, SEEN, PAIRS, OPEN, tokens))


def families() -> str:
    results = _results("families")
    columns = (
        score("replay PSNR, dB", "replay", "psnr"), _short(LATER, "identity, later, %"),
        _short(SEEN, "PSNR, seen, dB"), _short(PAIRS, "pairs, dB"),
        _short(OPEN, "identity, open, %"), WRITTEN, ("parameters added", _added),
        held("kB at 40 frames", "bytes", 1000), held("kB at 400", "bytes_at_400", 1000),
        ("ms a chunk", _milliseconds),
    )
    return _studied(results, [row for row in results["rows"] if row != "first-frame"], columns)


def echo_memory() -> str:
    """The paper's figures beside ours."""
    results = _results("families")
    columns = (
        score("replay PSNR, dB", "replay", "psnr"), score("pairs, dB", "loop", "pair_psnr"),
        score("open, first objects, %", "open-loop", "identity_first"),
        score("open, later objects, %", "open-recall", "identity_later"),
    )
    lines = [
        [f"`{row}`", *(f"{number:.1f}" for number in paper),
         *(show(results, row).split(" [")[0] for _, show in columns)]
        for row, paper in ECHO_MEMORY.items()
    ]
    paper = ["paper: replay PSNR", "pairs", "open"]
    return _table(["row", *paper, *(f"ours: {heading}" for heading, _ in columns)], lines)


def returns() -> str:
    results = _results("returns")
    rows = [row for row in results["protocol"]["rows"] if row != FLOOR]
    columns = (
        _short(LATER, "identity, later, %"), _short(FIRST, "identity, first, %"),
        _short(SEEN, "PSNR, seen, dB"), _short(PAIRS, "pairs, dB"),
        _short(OPEN, "identity, open, %"), WRITTEN,
    )
    return _studied(results, rows, columns)


def geometry() -> str:
    """Rows that are told depth, and those that need none, on the branches of their study."""
    results = _results("geometry")
    columns = (
        _short(SEEN, "PSNR, seen, dB"), score("PSNR, new, dB", "recall", "psnr_revealed"),
        _short(LATER, "identity, later, %"), _short(OPEN, "identity, open, %"),
        _short(PAIRS, "pairs, dB"), score("seen, stated errors, dB", "off-stated", "psnr_seen"),
        score("seen, drift, dB", "off-drift", "psnr_seen"),
        held("kB at 40 frames", "bytes", 1000), held("kB at 400", "bytes_at_400", 1000),
    )
    rows = [
        row for row in results["rows"] if row != "first-frame" and not row.startswith(PREFIXES)
    ]
    return _studied(results, rows, columns)


def geometry_off() -> str:
    """Rows that were trained with geometry that is off, each below the one that was not."""
    results = _results("geometry")
    columns = (
        _short(SEEN, "exact, dB"),
        *(score(f"{level}, dB", f"off-{level}", "psnr_seen") for level in ("stated", "drift")),
        *(score(f"identity, {level}, %", f"off-{level}", "identity_later")
          for level in ("stated", "drift")),
    )
    trained = [row for row in results["rows"] if row.startswith(STATED)]
    rows = [name for row in trained for name in (row.removeprefix(STATED), row)]
    return _studied(results, rows, columns)


def flats() -> str:
    """Rows that were trained in flats, and what maps show there."""
    results = _results("geometry")
    columns = (
        score("PSNR, seen, dB", "flats", "psnr_seen"),
        score("PSNR, new, dB", "flats", "psnr_revealed"),
        score("identity, later, %", "flats", "identity_later"),
        score("identity, first, %", "flats", "identity_first"),
        held("kB at 40 frames", "bytes", 1000), held("kB at 400", "bytes_at_400", 1000),
    )
    rows = [row for row, found in results["rows"].items() if "flats" in found]
    return _studied(results, rows, columns)


def geometry_costs() -> str:
    """What rows with a map hold and take, along one room."""
    heads = ["row", "frames", "kB", "write a frame, ms", "read, ms", "chunk, ms"]
    lines = []
    for row, by_frames in _read("geometry/costs.json")["rows"].items():
        for frames, r in by_frames.items():
            lines.append([
                f"`{row}`", f"{int(frames):,}", f"{r['bytes'] / 1000:,.0f}",
                f"{r['write_ms']['median']:.1f}", f"{r['read_ms']['median']:.1f}",
                f"{r['chunk_ms']['median']:.0f}",
            ])
    return _table(heads, lines)


def events() -> str:
    """What rows show of what happened while nobody looked."""
    results = _results("geometry")
    shares = (("kept", "none"), ("ghost", "none"), ("updated", "seen"), ("ghost", "seen"),
              ("updated", "told"), ("ghost", "told"), ("duplicate", "seen"), ("lost", "seen"))
    columns = tuple(
        score(f"{outcome}, {known}, %", "events", f"event_{outcome}_{known}")
        for outcome, known in shares
    )
    rows = [row for row, found in results["rows"].items() if "events" in found]
    return _studied(results, rows, columns)


def policies() -> str:
    """Tasks side by side, each with what the paper reports of the row."""
    results = _results("wam")
    tasks, protocol = list(results["success"]), results["protocol"]
    holds = [str(hold) for hold in protocol["holds"]]
    heads = [head for task in tasks for head in (task, f"delay × {holds[-1]}", "paper")]

    def line(
        name: str, found: Callable[[str, str], Mapping[str, Any] | None], row: str = ""
    ) -> list[str]:
        cells = [name]
        for task in tasks:
            rates = [found(task, hold) for hold in holds]
            cells += [NOTHING if rate is None else percent(rate) for rate in rates]
            cells.append(str(TEXTS["published"]["rows"][task].get(row, NOTHING)))
        return cells

    def hands(name: str) -> list[str]:
        return line(HANDS[name], lambda task, hold: results["baselines"][task][hold][name])

    def played(row: str) -> list[str]:
        def found(task: str, hold: str) -> Mapping[str, Any] | None:
            by_hold = results["success"][task].get(row)
            return None if by_hold is None else by_hold[hold]["success"]

        return line(f"`{row}`", found, row)

    floors = [hands(name) for name in HANDS if name in protocol["floors"]]
    ceilings = [hands(name) for name in HANDS if name in protocol["ceilings"]]
    return _table(["", *heads], [*floors, *map(played, protocol["rows"]), *ceilings])


def training_step(name: str, other: str = "plain") -> str:
    """Steps of another kind and Loci's, row by row."""
    heads = ["row, frames an episode, dtype", f"{other}, ms", "Loci, ms", "ratio",
             "thousand tokens a second"]
    return _table(heads, [
        [row, f"{r[f'{other}_ms']:.0f}", f"{r['loci_ms']:.0f}", _ratio(r),
         f"{r['tokens_per_second'] / 1000:.1f}"]
        for row, r in _bench(name).items()
    ])


def block_attention() -> str:
    """The fused kernel and ours, block by block."""
    heads = ["blocks, dtype", "blocks x queries x keys", "fused, ms", "Loci, ms", "ratio"]
    return _table(heads, [
        [name, f"{r['blocks']} x {r['queries']} x {r['keys']}", f"{r['fused_ms']:.1f}",
         f"{r['ours_ms']:.1f}", _ratio(r)]
        for name, r in _bench("block_attention").items()
    ])


def ragged_streams() -> str:
    """Batches of streams of many lengths against those of one length, and against a loop."""
    columns = ("ragged / equal", "one by one / ragged")
    return _table(["what, row", *columns], [
        [f"{what} ({kind}, {row})",
         *(_median(found[f"{what}, {c}"], ".2f") if f"{what}, {c}" in found else NOTHING
           for c in columns)]
        for name, found in _bench("ragged_streams").items()
        for kind, row in [name.split(", ")]
        for what in dict.fromkeys(measured.split(", ")[0] for measured in found)
    ])


def memory() -> str:
    """What `loci bench` found after 400 frames."""
    heads = ["row", "tokens", "kB", "write a frame, ms", "chunk, ms", "chunk, times `none`"]
    lines = []
    for row, by_frames in _bench("memory").items():
        r = by_frames["400"]
        lines.append([
            f"`{row}`", f"{r['tokens']:,}", f"{r['bytes'] / 1000:,.0f}",
            f"{r['write_ms']['median']:.1f}", f"{r['chunk_ms']['median']:.0f}",
            _median(r["chunk_ratio"], ".2f"),
        ])
    return _table(heads, lines)


def policy_costs(size: str) -> str:
    """What `loci bench --policy SIZE` found after 400 and after 6,400 frames."""
    rows, form = _bench(f"policy_{size}"), {"small": ".1f", "paper": ".0f"}[size]
    heads = ["frames (control steps)", "row", "tokens", "MB", "observe, ms", "act, ms",
             "step, times `window`", "attention, times bare"]
    lines = []
    for frames in (400, 6400):
        for row, by_frames in rows.items():
            r = by_frames[str(frames)]
            start = [f"{frames:,} ({16 * frames:,})", f"`{row}`", f"{r['tokens']:,}",
                     f"{r['bytes'] / 1e6:,{form}}"]
            if "left_out" in r:
                lines.append([*start, "left out: beyond 8 GB", "", "", ""])
                continue
            lines.append([
                *start, _median(r["observe_ms"], form), _median(r["act_ms"], ".0f"),
                _median(r["step_ratio"], ".2f"), _median(r["attention_ratio"], ".2f"),
            ])
    return _table(heads, lines)


def policy_turns(size: str) -> str:
    """How rows compare turn by turn, medians, against the targets."""
    compared = _read(f"benchmarks/policy_{size}.json")["compared"]
    frames = [name for name in next(iter(compared.values())) if name != "target"]
    lines = [
        [name, *(f"{by[n]['median']:.2f}" if n in by else NOTHING for n in frames), by["target"]]
        for name, by in compared.items()
    ]
    return _table(["turn by turn", *(f"{int(n):,}" for n in frames), "target"], lines)


def long_episode() -> str:
    """The first hundred chunks of the long episode, and every fifth hundred."""
    found = _read("benchmarks/long_episode.json")["parts"]
    heads = ["chunks", "tokens", "observe, ms", "of them 99 in 100 below", "times `window`",
             "act, ms", "of them 99 in 100 below", "times `window`"]
    lines = []
    for part in (found[0], *found[4:20:5]):
        line = [f"{part['chunks'][0]:,} to {part['chunks'][1]:,}", f"{part['tokens']:,}"]
        for act, form in (("observe", ".1f"), ("act", ".0f")):
            cost = part[act]["hybrid"]
            line += [_median(cost, form), f"{cost['p99']:{form}}",
                     f"{part[act]['ratio']['median']:.2f}"]
        lines.append(line)
    return _table(heads, lines)


def camera() -> str:
    """Losses of short trainings that differ in how the camera enters."""
    losses = _read("benchmarks/camera.json")["loss"]
    return _table(["camera", "loss"], [[name, f"{loss:.3f}"] for name, loss in losses.items()])


def render() -> str:
    """What a frame of a room costs, beside the bare casting of its rays."""
    ms = _read("benchmarks/render.json")["ms_a_frame"]
    return _table(["a 64 x 64 frame of a room", "ms"], [
        ["one ray a pixel, nothing coloured (MuJoCo)", f"{ms['cast']:.2f}"],
        ["colour, depth, identity, smoothed outlines", f"{ms['frame']:.2f}"],
        ["the same, alone instead of among sixteen", f"{ms['alone']:.2f}"],
        ["second / first", _ratio(ms)],
    ])


def tabletop() -> str:
    """What pictures and control steps of the tabletop cost."""
    rows = _read("benchmarks/tabletop.json")["ms"]
    names = {"96x80": "96 x 80, what the policies see", "step": "a control step without pictures"}
    lines = []
    for name, ms in rows.items():
        form = ".3f" if name == "step" else ".1f"
        spread = {"median": ms["clock"], "lo": ms["clock_lo"], "hi": ms["clock_hi"]}
        lines.append([names.get(name, name.replace("x", " x ")), _median(spread, form)])
    return _table(["mosaic of three cameras", "ms"], lines)


def baselines() -> str:
    """What less than memory is worth at the tasks."""
    results = _results("wam")
    tasks, names = list(results["baselines"]), (*results["protocol"]["floors"], "oracle-state")
    chance = [f"{100 * results['protocol']['tasks'][task]['chance']:.1f}" for task in tasks]
    lines = [["chance", *(text.removesuffix(".0") for text in chance)]]
    for name in names:
        rates = [percent(results["baselines"][task]["1"][name]) for task in tasks]
        lines.append([BASELINES.get(name, name), *rates])
    return _table(["", *tasks], lines)


def retrieval(flats: bool = False) -> str:
    """The share of the pixels seen before that up to four frames cover, by rule and path, and how
    many a rule takes."""
    found = _read("benchmarks/retrieval.json")
    through = found["protocol"]["flats"]["paths"]
    paths = {p: rules for p, rules in found["coverage"]["4"].items() if (p in through) == flats}
    lines = []
    for rule in next(iter(paths.values())):
        rows = [paths[path][rule] for path in paths]
        lines.append([f"`{rule}`", *(
            f"{100 * e['mean']:.1f} [{100 * e['lo']:.1f}, {100 * e['hi']:.1f}]" for e in rows
        ), f"{fmean(e['frames'] for e in rows):.1f}"])
    return _table(["rule", *paths, "frames taken"], lines)


def retrieval_queries() -> str:
    """How long a view index takes for a chunk, and for a frame, after so many frames."""
    rows = _read("benchmarks/retrieval.json")["queries"]
    heads = ["ms", *(f"after {int(n):,} frames" for n in next(iter(rows.values())))]
    names = {"write": "taking in a frame"}
    return _table(heads, [
        [names.get(what, f"`{what}`"), *(_median(took, ".1f") for took in found.values())]
        for what, found in rows.items()
    ])


def maps() -> str:
    """What maps bring back without a model, with exact geometry and without."""
    rows = _read("benchmarks/maps.json")["renders"]
    names = dict.fromkeys(name.split("; ")[0] for name in rows)
    off = dict.fromkeys(name.split("; ")[1] for name in rows)

    def line(name: str) -> list[str]:
        found = [rows[f"{name}; {how}"] for how in off]
        return [
            *(_mean(each["psnr"], ".1f") for each in found),
            *(f"{each['covered']['mean']:.0f}" for each in found),
            f"{found[0]['kilobytes']['mean']:,.0f}",
        ]

    heads = ["map", *(f"PSNR, {how}" for how in off), *(f"covered, {how}, %" for how in off), "kB"]
    return _table(heads, [[name, *line(name)] for name in names])


def map_writes() -> str:
    """How long a map takes to take in a frame, after so many."""
    rows = _read("benchmarks/maps.json")["writes"]
    heads = ["map", *(f"after {int(n):,} frames" for n in next(iter(rows.values())))]
    return _table(heads, [
        [name, *(_median(took, ".1f") for took in found.values())] for name, found in rows.items()
    ])


def generation(*parts: str) -> str:
    """What generation loses, part by part of the benchmark."""
    found, solved = _read("benchmarks/generation_error.json"), parts == ("solvers",)

    def line(name: str, r: Results) -> list[str]:
        taken = r["evaluations"] if solved else next(iter(r.values())) / 1000
        error = "{:.1f} [{:.1f}, {:.1f}]".format(
            *(100 * r[f"error{end}"] for end in ("", "_lo", "_hi"))
        )
        near = "{:.1f} [{:.1f}, {:.1f}]".format(*(r[f"psnr{end}"] for end in ("", "_lo", "_hi")))
        return [name, f"{taken:,.0f}", error, near]

    first = ["solver", "evaluations"] if solved else ["what is stored", "kB"]
    return _table([*first, "distance, %", "PSNR, dB"], [
        line(name, r) for part in parts for name, r in found[part].items()
    ])


TABLES: dict[str, Callable[[], str]] = {
    "findings": findings, "ground": ground, "families": families, "echo_memory": echo_memory,
    "returns": returns, "policies": policies, "geometry": geometry, "events": events,
    "flats": flats, "geometry_off": geometry_off,
    "geometry_costs": geometry_costs,
    **{n: partial(training_step, n) for n in ("training_step", "training_step_policy")},
    "training_step_map": partial(training_step, "training_step_map", "context-5"),
    "block_attention": block_attention, "memory": memory, "retrieval": retrieval,
    "retrieval_flats": partial(retrieval, flats=True), "retrieval_queries": retrieval_queries,
    "ragged_streams": ragged_streams, "maps": maps, "map_writes": map_writes,
    "long_episode": long_episode, "camera": camera, "render": render, "tabletop": tabletop,
    "baselines": baselines,
    "generation_solvers": partial(generation, "solvers"),
    "generation_forms": partial(generation, "weights", "memory"),
    **{f"policy_{size}": partial(policy_costs, size) for size in ("small", "paper")},
    **{f"turns_{size}": partial(policy_turns, size) for size in ("small", "paper")},
}


def filled(text: str) -> str:
    """A page with its tables as the results are."""
    return SPOT.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def _read(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def _results(study: str) -> dict[str, Any]:
    return _read(f"{study}/results.json")


def _bench(name: str) -> dict[str, Any]:
    return _read(f"benchmarks/{name}.json")["rows"]


def _ratio(result: Results) -> str:
    return f"{result['ratio']:.2f} [{result['ratio_lo']:.2f}, {result['ratio_hi']:.2f}]"


def _mean(estimate: Results, form: str) -> str:
    return "{:{f}} [{:{f}}, {:{f}}]".format(*(estimate[k] for k in ("mean", "lo", "hi")), f=form)


def _median(spread: Results, form: str) -> str:
    return "{:{f}} [{:{f}}, {:{f}}]".format(*(spread[k] for k in ("median", "lo", "hi")), f=form)


def _short(column: Column, heading: str) -> Column:
    return heading, column[1]


def _studied(results: Results, rows: Iterable[str], columns: Iterable[Column]) -> str:
    columns = list(columns)
    lines = [
        [REFERENCES.get(row, f"`{row}`"), *(show(results, row) for _, show in columns)]
        for row in rows
        if row != "ground-truth"
    ]
    return _table(["row", *(heading for heading, _ in columns)], lines)


def _table(heads: list[str], lines: list[list[str]]) -> str:
    # An interval is not broken over two lines.
    lines = [[INTERVAL.sub("\u00a0[\\1,\u00a0\\2]", part) for part in line] for line in lines]
    rule = ["---"] * len(heads)
    rows = [" ".join(f"| {part}".strip() for part in line) + " |" for line in (heads, *lines)]
    return "\n".join([rows[0], f"|{'|'.join(rule)}|", *rows[1:]]) + "\n"


def main() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            (ROOT / page).write_text(new, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
