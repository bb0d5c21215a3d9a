"""The report of the study of policies: every number, judged on both sides of each threshold."""

from __future__ import annotations

import base64
import io
import json
from html import unescape
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from finished_policies import finish
from html_page import Tags, asks_for_nothing
from loci.errors import LociError
from loci.io.pictures import write_video
from loci.recipes.tabletop import POLICY_ROWS
from loci.report import published
from loci.report.policy_claims import policy_claims
from loci.report.policy_page import render_policy_page, write_policy_report
from loci.study.estimates import Estimate, wilson
from loci.study.tabletop import policy_study
from loci.study.tabletop.baselines import BASELINES
from loci.study.tabletop.policy_study import run_policies
from loci.worlds.tabletop.tasks import TASKS

CASES = 20
HITS = {
    "window": (5, 4), "full": (19, 12), "hybrid": (19, 18), "no-anchors": (17, 11),
    "no-gists": (9, 6), "rnn": (13, 2), "ttt": (12, 8),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All rows at all tasks, with films of the first and the last episode of some."""
    out = tmp_path_factory.mktemp("wam")
    video = np.zeros((6, 16, 20, 3), np.uint8)
    video[:, :8] = 200
    for task in TASKS:
        for row, (once, longer) in HITS.items():
            finish(out, task, row, {1: once, 4: longer}, CASES)
        for row in ("hybrid", "window", "rnn"):
            for episode in (0, CASES - 1):
                films = out / "episodes" / f"{task}-{row}-hold1" / "videos"
                write_video(films / f"{episode:03d}.mp4", video, fps=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            policy_study, "baselines",
            lambda task, cases, training, first: {
                name: Estimate(0.35, *wilson(7, CASES), CASES) for name in BASELINES
            },
        )
        run_policies(out, cases=CASES)
    return out


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def tags(html: str) -> Tags:
    return Tags(html)


def test_the_page_is_whole_small_and_asks_for_nothing(html: str, tags: Tags) -> None:
    assert asks_for_nothing(html, tags)
    assert not tags.open
    assert html.lstrip().startswith("<!doctype html>")
    assert len(html) < 3_000_000
    assert len(tags.of("svg")) == 3
    assert "#123456" not in html
    assert all(figure.get("aria-label") for figure in tags.of("figure") if "role" in figure)


def test_every_row_task_and_number_is_on_the_page(html: str, results: dict[str, Any]) -> None:
    for row in POLICY_ROWS:
        assert html.count(row) > 6
    for task in TASKS:
        assert html.count(task) > 6
        for row, (once, longer) in HITS.items():
            for hits in (once, longer):
                low, high = (round(100 * end) for end in wilson(hits, CASES))
                assert f"{5 * hits}<small>[{low}, {high}]</small>" in html, row
    for name in BASELINES:
        assert name in html
    protocol = results["protocol"]
    for fact in (protocol["commit"], protocol["device"], protocol["noise"], "1,500,000", "0.0200",
                 protocol["command"]):
        assert fact in unescape(html)
    assert "wrong mat" in html


def test_the_papers_numbers_are_labelled_as_such(html: str) -> None:
    assert "Not measured here" in html
    assert "for orientation only" in html
    for task, rows in published.ROWS.items():
        assert task in TASKS
        assert set(rows) <= set(POLICY_ROWS)
        for row, number in rows.items():
            cell = f'<td class="published">{number}<small>{published.NAMES[row]}</small></td>'
            assert cell in html
        assert published.SUCCESS[task][-1] == rows["hybrid"]
    assert all(len(numbers) == len(published.METHODS) for numbers in published.SUCCESS.values())


def test_a_success_and_a_failure_are_shown_of_each_task(html: str, tags: Tags) -> None:
    videos = tags.of("video")
    assert len(videos) == 2 * len(TASKS)
    for task in TASKS:
        assert f"{task} · hybrid. Episode 0, 20 chunks; success." in html
        assert f"{task} · window. Episode 19, 24 chunks; failed: not pressed." in html
    data = base64.b64decode(str(videos[0]["src"]).partition(",")[2])
    with av.open(io.BytesIO(data)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6


def test_a_page_without_films_and_logs_is_still_whole(
    folder: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    assert not Tags(render_policy_page(results, folder, limit=10)).of("video")
    bare = render_policy_page(results, tmp_path)
    assert not Tags(bare).open
    assert len(Tags(bare).of("svg")) == 2
    with pytest.raises(LociError, match=r"no results\.json in .*run `loci study`"):
        write_policy_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(LociError, match="cannot be read"):
        write_policy_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def made_up(hybrid: int, full: int, window: int, hold: str = "1") -> dict[str, Any]:
    """Results of one task and hold, of 100 episodes."""
    points = {"mean": 0.5, "lo": 0.4, "hi": 0.6, "n": 100}

    def rate(hits: int) -> dict[str, Any]:
        low, high = wilson(hits, 100)
        success = {"hits": hits, "of": 100, "rate": hits / 100, "lo": low, "hi": high}
        return {hold: {"success": success}}

    rows = {"window": rate(window), "full": rate(full), "hybrid": rate(hybrid)}
    names = ("hybrid - window", "hybrid - full")
    return {
        "success": {"cover-blocks": rows},
        "differences": {"cover-blocks": {hold: dict.fromkeys(names, points)}},
    }


@pytest.mark.parametrize(("hybrid", "full", "window", "verdicts"), [
    (95, 95, 25, [True, True, True]),
    (94, 95, 25, [False, True, False]),
    (95, 100, 26, [False, False]),
    # The interval of 100 in 100 begins at 96.3.
    (97, 100, 27, [True, True, True]),
    (96, 100, 27, [True, False, False]),
    (100, 3, 30, [True, True, True]),
    (100, 3, 31, [True, True, False]),
])
def test_claims_are_judged_on_both_sides_of_each_threshold(
    hybrid: int, full: int, window: int, verdicts: list[bool]
) -> None:
    results = made_up(hybrid, full, window)
    if len(verdicts) == 2:
        del results["success"]["cover-blocks"]["full"]
        verdicts = [True, verdicts[-1]]
    found = policy_claims(results)
    assert [claim.holds for claim in found] == verdicts
    assert f"{hybrid} of 100" in found[0].numbers
    assert "50 [40, 60] points" in found[-1].numbers


def test_each_hold_is_a_claim_of_its_own(results: dict[str, Any]) -> None:
    found = policy_claims(results)
    assert len(found) == len(TASKS) * 2 * 3
    longer = [claim for claim in found if "fact held 4 times as long" in claim.text]
    assert len(longer) == len(found) / 2
    (once, more) = (
        claim for claim in found
        if claim.text.startswith("press-button") and "95 %" in claim.text
    )
    assert (once.holds, more.holds) == (True, False)
    assert policy_claims(made_up(95, 95, 25) | {"success": {"a": {"window": {}}}}) == []
