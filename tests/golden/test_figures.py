"""Every figure of the published results, row by row.

A new row, task or figure may be added; a row's own figures stay. Rankings are over all rows, and
milliseconds of worlds are measured again with every row: neither is pinned. What is published also
comes out again of what is kept of every case, which pins means, intervals and what keeps it valid.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from golden import entry_points as loci
from golden.pins import differences, pins

RESULTS = Path(__file__).parents[2] / "results"


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def short(tree: Any) -> str:
    """Eight digits of the SHA-256 of canonical JSON."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@pytest.mark.parametrize("name", ["ground", "families", "returns"])
def test_rows_of_worlds_keep_their_figures(name: str) -> None:
    results = read(RESULTS / name / "results.json")
    found: dict[str, Any] = {}
    for section in ("rows", "gains"):
        for row, branches in results[section].items():
            for branch, figures in branches.items():
                found.setdefault(row, {}).setdefault(section, {})[branch] = short(figures)
    for section in ("retention", "probe", "cost"):
        for row, figures in results[section].items():
            found.setdefault(row, {})[section] = short(figures)
    for row, made in results["protocol"]["rows"].items():
        found[row] |= {"parameters": made["parameters"], "world": made["config"]}
    with pins("figures") as check:
        check(name, found, more=True)


def test_policies_keep_their_figures() -> None:
    results = read(RESULTS / "wam" / "results.json")
    protocol = results["protocol"]
    found: dict[str, Any] = {}
    for task, rows in results["success"].items():
        for row, by_hold in rows.items():
            entry, wall = protocol["entries"][task][row], protocol["wall"]
            training = {name: entry["training"][name] for name in ("steps", "loss")}
            took = [wall[what][task][row] for what in ("milliseconds_per_act", "training_minutes")]
            found[f"{task}, {row}"] = {
                **{f"hold {hold}": short(figures) for hold, figures in by_hold.items()},
                "parameters": entry["parameters"], "weights": entry["weights"],
                "held": short(entry["held"]), "training": short(training), "took": short(took),
            }
    for what in ("baselines", "differences"):
        for task, by_hold in results[what].items():
            for hold, rows in by_hold.items():
                if rows:
                    found[f"{task}, {what}, hold {hold}"] = {k: short(v) for k, v in rows.items()}
    found |= {f"{task}, told": short(said) for task, said in protocol["tasks"].items()}
    with pins("figures") as check:
        check("wam", found, more=True)


def test_episodes_of_policies_keep_their_figures() -> None:
    found = {}
    for file in sorted((RESULTS / "wam" / "episodes").glob("*/results.json")):
        figures = read(file)
        del figures["protocol"]
        found[file.parent.name] = short(figures)
    with pins("figures") as check:
        check("wam episodes", found, more=True)


def test_kept_scores_of_worlds_give_the_published_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("what was kept is no longer valid: it would be made again")

    for maker in loci.MAKERS:
        monkeypatch.setattr(maker, never)
    monkeypatch.setattr(loci.REPORT, lambda *_: None)
    shutil.copytree(RESULTS / "families" / "parts", tmp_path / "parts")
    loci.command("study", "families", "--out", tmp_path, "--rows", "none,hybrid")
    found, published = read(tmp_path / "results.json"), read(RESULTS / "families" / "results.json")
    # There are fewer rows than are published, and rankings are over all of them.
    sections = [section for section in found if section not in ("protocol", "rankings")]
    wanted = {name: {key: published[name][key] for key in found[name]} for name in sections}
    assert not list(differences({name: found[name] for name in sections}, wanted))
