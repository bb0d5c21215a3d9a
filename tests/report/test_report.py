"""The report: one file that asks for nothing else, and says what was measured."""

from __future__ import annotations

import base64
import io
import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from browser import Browser
from fake_worlds import fake_entry, last_view, nearest_view
from html_page import Tags, asks_for_nothing
from loci.errors import LociError
from loci.io.pictures import write_video
from loci.report import plots, rooms
from loci.report.checks import checks
from loci.report.families import COLORS, families, family, ordered
from loci.report.page import render_page, write_report
from loci.report.pictures import Shown, load_shown, video
from loci.report.sentences import of_rooms
from loci.report.svg import label
from loci.study.rooms.suite import Rooms
from loci.study.run import run, write
from loci.study.store import Store

RESULTS = Path(__file__).parents[2] / "results"
ROWS = {"none": last_view, "context-20": nearest_view}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    rows = [fake_entry(name, answer) for name, answer in ROWS.items()]
    write(run(Rooms("ground", 2, 0, rows, ("recall", "causal", "loop")), Store(out)), out)
    write_report(out)
    return out


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of a page's time."""
    monkeypatch.setattr(rooms, "plots", lambda *_: {})


@pytest.fixture
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
    assert len(html) < 12_000_000
    assert html.lstrip().startswith("<!doctype html>")


def test_the_page_opens_with_a_picture_a_plot_and_sentences(html: str) -> None:
    marks = ['class="glance"', "<svg", 'class="say"', '<h2 id="numbers"', '<h2 id="panels"',
             '<h2 id="tables"', '<h2 id="made"', '<h2 id="checks"']
    places = [html.index(mark) for mark in marks]
    assert places == sorted(places)
    # A column a memory, each with first frame, away and return.
    opening = html[places[0] : places[1]]
    assert opening.count('class="memory"') == 3
    assert [opening.count(word) for word in (">first frame<", ">away<", ">return<")] == [3, 3, 3]
    for mark in marks[3:]:
        name = mark.partition('id="')[2].rstrip('"')
        assert f'href="#{name}"' in html


def test_every_row_and_number_is_on_the_page(results: dict[str, Any], html: str) -> None:
    for row in results["rows"]:
        assert html.count(row) >= 2
    score = results["rows"]["context-20"]["loop"]["pair_psnr"]
    assert f"{score['mean']:.1f}" in html
    for fact in (results["protocol"]["command"], results["protocol"]["commit"], "none--------"):
        assert fact in html


def test_pictures_and_plots_can_be_read_by_everybody(html: str, tags: Tags) -> None:
    images = tags.of("img")
    assert len(images) > 50
    assert all(image["alt"] for image in images)
    assert all(film["aria-label"] and film["poster"] for film in tags.of("video"))
    assert all(drawn["role"] == "img" for drawn in tags.of("svg"))
    assert html.count('role="img"><title>') == len(tags.of("svg")) == 8
    assert "currentColor" in html
    assert "#123456" not in html
    assert "DejaVu" not in html
    source = str(images[0]["src"]).partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(source))).size == (64, 64)


def test_the_videos_play(tags: Tags) -> None:
    videos = tags.of("video")
    assert len(videos) == 4
    data = base64.b64decode(str(videos[0]["src"]).partition(",")[2])
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert sum(1 for _ in container.decode(stream)) == 33


def test_the_page_is_the_same_every_time(folder: Path, html: str) -> None:
    assert write_report(folder).read_text() == html


def test_without_its_cases_a_page_takes_the_scores_of_the_finished_parts(
    folder: Path, html: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "cases.json").unlink()
    assert write_report(copy).read_text() == html
    shutil.rmtree(copy / "parts")
    bare = Tags(write_report(copy).read_text())
    assert not bare.open
    assert not bare.of("img")


@pytest.mark.parametrize("name", [
    "ground",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("families", "returns", "wam")),
])
def test_the_shipped_results_have_a_page(name: str) -> None:
    results = json.loads((RESULTS / name / "results.json").read_text())
    page = render_page(results, RESULTS / name)
    tags = Tags(page)
    assert asks_for_nothing(page, tags)
    assert not tags.open
    assert page.count('class="say"') == 3
    assert all(page.count(row) > 3 for row in results["protocol"]["rows"])


def test_a_film_plays_and_tables_open_by_keyboard(window: Browser, folder: Path) -> None:
    window.open(folder / "report.html")
    window.walk_to(".player button")
    text = "document.activeElement.innerText"
    assert window.js(text) == "Play"
    window.press("Enter")
    window.js("""new Promise(done => {
      const film = document.querySelector("video");
      if (film.currentTime) done(); else film.addEventListener("timeupdate", done);
    })""")
    assert window.js(text) == "Pause"
    window.press(" ")
    assert window.js("document.querySelector('video').paused")
    window.press("Tab")
    before = window.js("document.querySelector('video').currentTime")
    for _ in range(3):
        window.press("ArrowRight")
    assert window.js("document.querySelector('video').currentTime") > before
    window.walk_to("details summary")
    window.press("Enter")
    assert window.js("document.querySelector('details').open")


def test_checks_follow_the_numbers(folder: Path, results: dict[str, Any]) -> None:
    cases = json.loads((folder / "cases.json").read_text())
    found = {c.text: c for c in checks(results, cases)}
    assert found["context-20 reaches 90 % identity"].holds
    assert found["with another room's memory context-20 is no better than guessing"].holds
    assert not any("hybrid" in text for text in found)
    score = results["rows"]["context-20"]["recall"]["identity_later"]
    for mean, holds in ((0.9, True), (0.8999, False)):
        results["rows"]["context-20"]["recall"]["identity_later"] = score | {"mean": mean}
        again = {c.text: c for c in checks(results, cases)}
        assert again["context-20 reaches 90 % identity"].holds == holds
    results["rows"]["context-20"]["recall"]["identity_later"] |= {"lo": 0.1}
    fallen = {c.text: c for c in checks(results, cases)}
    assert not fallen["context-20 does, and the intervals of both are apart: against none"].holds
    rows = {"context-5": cases["recall"]["context-20"], "context-1": cases["recall"]["none"]}
    pairs = {c.text: c for c in checks(results, {"recall": rows})}
    assert pairs["more context is better: context-5 over context-1, PSNR of pixels seen before"
                 ].holds


def test_sentences_are_made_from_the_numbers(results: dict[str, Any]) -> None:
    first, second, third = of_rooms(results)
    assert "context-20 shows the right one 100 [" in first
    assert "; none shows " in first
    assert "holds 3 kB after 40 frames; no row comes within 5 points" in second
    assert "with another room's frames in memory" in third
    results["rows"]["none"]["recall"]["identity_later"] = {
        "mean": 0.97, "lo": 0.9, "hi": 1.0, "n": 9,
    }
    results["cost"]["none"]["bytes"] //= 2
    assert "none (97 [90, 100]): it holds 1 kB after 40 frames, 2.0 times less than context-20" in (
        list(of_rooms(results))[1]
    )


def test_videos_and_then_panels_are_left_out_of_a_page_that_must_be_small(
    folder: Path, results: dict[str, Any], no_plots: None
) -> None:
    tags = Tags(render_page(results, folder, limit=1))
    assert not tags.of("video")
    one = len(tags.of("img"))
    assert one > 0
    assert len(Tags(render_page(results, folder)).of("img")) > one


def test_frames_of_another_study_are_not_shown(
    folder: Path, tmp_path: Path, no_plots: None
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    stale = copy / "rollouts" / "recall" / "7-loop180"
    shutil.copytree(copy / "rollouts" / "recall" / "0-loop180", stale)
    with np.load(stale / "truth.npz") as data:
        arrays = dict(data)
    np.savez(stale / "truth.npz", **(arrays | {"case": np.array("heldout/loop180/1")}))
    assert len(Tags(write_report(copy).read_text()).of("video")) == 4


def thinned(copy: Path, pattern: str = "*.npz") -> None:
    """Keep three frames of the shown cases, as where a folder must be small."""
    for file in (copy / "rollouts").rglob(pattern):
        with np.load(file) as data:
            arrays = dict(data)
        kept = sorted({0, int(len(arrays["video"]) * 0.4), len(arrays["video"]) - 1})
        arrays |= {"frames": np.array(kept), "video": arrays["video"][kept]}
        if "away" in arrays:
            arrays["away"] = np.array(kept[1])
        np.savez_compressed(file, **arrays)


def test_where_only_some_frames_were_kept_there_is_a_strip_and_no_video(
    folder: Path, tmp_path: Path, no_plots: None
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    thinned(copy)
    page = write_report(copy).read_text()
    assert not Tags(page).of("video")
    assert page.count('class="memory"') == 3
    assert len(Tags(page).of("img")) == 9 + 4 * 9
    # A film that was kept beside the frames is shown.
    (shown, *_) = load_shown(folder, "recall", list(ROWS))
    write_video(copy / "rollouts" / "recall" / "0-loop180" / "film.mp4", shown.film())
    assert len(Tags(write_report(copy).read_text()).of("video")) == 1


def test_a_row_that_came_later_may_have_more_frames(
    folder: Path, tmp_path: Path, no_plots: None
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    thinned(copy, "none.npz")
    # Of the other cases only the truth is there: nothing stands beside it.
    for file in (copy / "rollouts").rglob("*.npz"):
        if file.name != "truth.npz" and file.parent.name != "0-loop180":
            file.unlink()
    tags = Tags(write_report(copy).read_text())
    assert not tags.of("video")
    assert len(tags.of("img")) == 9 + 9  # the picture, and one strip of three frames


def test_missing_and_damaged_results_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LociError, match=r"results\.json is damaged .*run `loci study` there"):
        write_report(tmp_path)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "rollouts" / "recall" / "0-loop180" / "none.npz").write_bytes(b"PK\x03\x04 cut")
    before = (copy / "report.html").read_bytes()
    with pytest.raises(LociError, match=r"none\.npz is damaged"):
        write_report(copy)
    assert (copy / "report.html").read_bytes() == before
    (copy / "results.json").write_text('{"protocol":')
    with pytest.raises(LociError, match="is damaged"):
        write_report(copy)


def test_a_video_shows_every_row_and_says_what_was_given() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32] = 250
    films = {name: dict.fromkeys(range(5), picture) for name in ("ground truth", "a", "b", "c")}
    frames = Shown("recall", "heldout/x/1", 2, 3, 2, 4, films).film()
    assert frames.dtype == np.uint8
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    assert (frames[0] == frames[1]).all()
    assert (frames[1] != frames[2]).any()
    assert (frames == 250).mean() > 0.2
    made = video(frames)
    assert made["src"].startswith("data:video/mp4;base64,")
    assert made["poster"].startswith("data:image/jpeg;base64,")


def test_what_was_written_stands_beside_what_was_read(
    folder: Path, results: dict[str, Any]
) -> None:
    score = {"mean": 0.25, "lo": 0.2, "hi": 0.3, "n": 9}
    read = {"which_later": score, "identity_later": score | {"mean": 0.75}}
    results["probe"] = {"blind": {"which_later": score}, "none": read, "context-20": read}
    text = render_page(results, folder)
    assert len(Tags(text).of("svg")) == 9
    assert "Written: which, later (%)" in text
    assert text.count("<td>25") >= 3


def test_retention_is_drawn_for_each_row(results: dict[str, Any]) -> None:
    curves = results["retention"]
    assert {"none", "context-20"} <= set(curves)
    for row in curves.values():
        assert set(row) == {"absence", "travelled"}
        assert all(point["n"] > 0 and 0 <= point["mean"] <= 1 for point in row["absence"])
    # A perfect memory of views keeps everything, however long it was gone.
    assert all(point["mean"] == 1 for point in curves["context-20"]["absence"])


def test_retention_of_many_rows_has_a_plot_each_and_an_axis_below_each_column() -> None:
    point = {"to": 8, "mean": 0.5, "lo": 0.4, "hi": 0.6, "n": 9}
    rows = {f"row-{n:02}": "gists" for n in range(9)}
    drawn = plots.retention("Kept", {row: [point] for row in rows}, rows, "frames", 0.125)
    assert all(drawn.count(f">{name}<") == 1 for name in rows)
    assert drawn.count(">≤ 8<") == 7


def test_labels_stand_on_no_dot_and_on_no_other_label() -> None:
    figure = Figure(figsize=(6.4, 3.6))
    axis = figure.subplots()
    axis.set(xlim=(0, 10), ylim=(0, 106))
    dots = [(f"row-{n}", 1 + 0.3 * n, 50.0 + 8 * (n % 2)) for n in range(12)]
    dots += [("alone", 8.0, 20.0), ("apart", 2.0, 100.0)]
    label(axis, dots)
    assert {"alone", "apart"} <= {text.get_text() for text in axis.texts} < {n for n, *_ in dots}
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    for _, x, y in dots:
        place = axis.transData.transform((x, y))
        assert not any(box.contains(*place) for box in boxes)


def test_rows_have_the_colour_of_their_family_and_stand_by_it() -> None:
    protocol = {"rows": {"hybrid": {}, "mine": {}, "none": {}, "tower": {}, "returns-tower": {},
                         "rnn": {"type": "delta"}}}
    found = families(protocol)
    assert found == {
        "hybrid": "gists", "mine": "other memory", "none": "recent frames", "tower": "gists",
        "returns-tower": "gists", "rnn": "carried state",
    }
    assert set(found.values()) <= set(COLORS)
    order = ordered(found, {"tower": 0.9, "hybrid": 0.5, "returns-tower": 0.7})
    assert order == ["none", "tower", "returns-tower", "hybrid", "rnn", "mine"]
    assert family("hybrid", {"rows": {"hybrid": {"type": "window"}}}) == "recent frames"
