"""The report: one file that asks for nothing else, and says what was measured."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fake_worlds import FakeWorld, last_view, nearest_view
from html_page import Tags, asks_for_nothing
from loci.errors import LociError
from loci.report import page as pages
from loci.report import plots
from loci.report.claims import claims
from loci.report.page import write_report
from loci.report.panels import Shown, mosaic, mp4, png
from loci.report.svg import label
from loci.study.runner import Contender
from loci.study.study import evaluate

ROWS = {"none": last_view, "context-20": nearest_view}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    rows = [Contender(n, FakeWorld(a), n.ljust(12, "-")[:12], "0" * 64, 7) for n, a in ROWS.items()]
    evaluate("ground", rows, out, 2, 0, ("recall", "causal", "loop"))
    write_report(out)
    return out


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def tags(html: str) -> Tags:
    return Tags(html)


def test_the_page_asks_for_nothing(html: str, tags: Tags) -> None:
    assert asks_for_nothing(html, tags)


def test_the_page_is_whole_and_small(html: str, tags: Tags) -> None:
    assert not tags.open
    assert len(html) < 12_000_000
    assert html.startswith("<!doctype html>")


def test_every_row_and_number_is_on_the_page(folder: Path, html: str) -> None:
    results = json.loads((folder / "results.json").read_text())
    for row in results["rows"]:
        assert html.count(row) >= 2
    score = results["rows"]["context-20"]["loop"]["pair_psnr"]
    assert f"{score['mean']:.1f}" in html
    for fact in (results["protocol"]["command"], results["protocol"]["commit"], "none--------"):
        assert fact in html


def test_pictures_can_be_read_by_everybody(tags: Tags) -> None:
    images = tags.of("img")
    assert len(images) > 50
    assert all(image["alt"] for image in images)
    assert all(video["aria-label"] for video in tags.of("video"))
    assert all(f["aria-label"] for f in tags.of("figure"))
    source = str(images[0]["src"]).partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(source))).size == (64, 64)


def test_the_videos_play(folder: Path, tags: Tags) -> None:
    videos = tags.of("video")
    assert len(videos) == 4
    data = base64.b64decode(str(videos[0]["src"]).partition(",")[2])
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert sum(1 for _ in container.decode(stream)) == 33


def test_the_page_is_the_same_every_time(folder: Path, html: str) -> None:
    assert pages.write_report(folder).read_text() == html


def test_plots_take_the_colour_of_the_page(html: str, tags: Tags) -> None:
    assert len(tags.of("svg")) == 7
    assert "currentColor" in html
    assert "#123456" not in html
    assert "DejaVu" not in html


def test_claims_follow_the_numbers(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    cases = json.loads((folder / "cases.json").read_text())
    found = {c.text: c for c in claims(results, cases)}
    assert found["context-20 reaches 90% identity"].holds
    assert found["another room's memory takes the gain of context-20 away"].holds
    worse = json.loads(json.dumps(results))
    worse["rows"]["context-20"]["recall"]["identity_later"] |= {"mean": 0.5, "lo": 0.1, "hi": 0.6}
    fallen = {c.text: c for c in claims(worse, cases)}
    assert not fallen["context-20 reaches 90% identity"].holds
    assert not fallen["context-20 does, and the intervals are apart"].holds


def test_videos_and_then_panels_are_left_out_of_a_page_that_must_be_small(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    cases = json.loads((folder / "cases.json").read_text())
    tags = Tags(pages.render_page(results, cases, folder, limit=1))
    assert not tags.of("video")
    one = len(tags.of("img"))
    assert one > 0
    assert len(Tags(pages.render_page(results, cases, folder)).of("img")) > one


def test_frames_of_another_study_are_not_shown(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    stale = copy / "rollouts" / "recall" / "7-loop180"
    shutil.copytree(copy / "rollouts" / "recall" / "0-loop180", stale)
    with np.load(stale / "truth.npz") as data:
        arrays = dict(data)
    np.savez(stale / "truth.npz", **(arrays | {"case": np.array("heldout/loop180/1")}))
    assert len(Tags(write_report(copy).read_text()).of("video")) == 4


def test_missing_and_damaged_results_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LociError, match=r"no results\.json in .*loci study"):
        write_report(tmp_path)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "rollouts" / "recall" / "0-loop180" / "none.npz").write_bytes(b"PK\x03\x04 cut")
    before = (copy / "report.html").read_bytes()
    with pytest.raises(LociError, match=r"none\.npz is damaged"):
        write_report(copy)
    assert (copy / "report.html").read_bytes() == before
    (copy / "results.json").write_text('{"protocol":')
    with pytest.raises(LociError, match="cannot be read"):
        write_report(copy)


def test_a_mosaic_shows_every_row_and_says_what_was_given() -> None:
    video = np.zeros((5, 64, 64, 3), np.uint8)
    video[:, :32] = 250
    videos = dict.fromkeys(("ground truth", "a", "b", "c"), video)
    shown = Shown("recall", "heldout/x/1", 2, 3, 2, videos)
    frames = mosaic(shown)
    assert frames.dtype == np.uint8
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    assert (frames[0] == frames[1]).all()
    assert (frames[1] != frames[2]).any()
    assert (frames == 250).mean() > 0.2
    assert mp4(frames).startswith("data:video/mp4;base64,")
    assert png(video[0]).startswith("data:image/png;base64,")


def test_what_was_written_stands_beside_what_was_read(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    cases = json.loads((folder / "cases.json").read_text())
    score = {"mean": 0.25, "lo": 0.2, "hi": 0.3, "n": 9}
    read = {"which_later": score, "identity_later": score | {"mean": 0.75}}
    results["probe"] = {"blind": {"which_later": score}, "none": read, "context-20": read}
    text = pages.render_page(results, cases, folder)
    assert len(Tags(text).of("svg")) == 8
    assert "Written: which, later (%)" in text
    # Rows whose dots lie on each other share a label.
    assert "none, context-20" in text
    assert text.count("<td>25") >= 3


def test_retention_is_drawn_for_each_row(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    curves = results["retention"]
    assert {"none", "context-20"} <= set(curves)
    for row in curves.values():
        assert set(row) == {"absence", "travelled"}
        assert all(point["n"] > 0 and 0 <= point["mean"] <= 1 for point in row["absence"])
    # A perfect memory of views keeps everything, however long it was gone.
    assert all(point["mean"] == 1 for point in curves["context-20"]["absence"])


def test_retention_of_many_rows_has_a_plot_each_and_an_axis_below_each_column() -> None:
    point = {"to": 8, "mean": 0.5, "lo": 0.4, "hi": 0.6, "n": 9}
    names = [f"row-{n:02}" for n in range(9)]
    drawn = plots.kept({n: {"absence": [point]} for n in names}, names, "absence", "frames")
    assert all(drawn.count(f">{name}<") == 1 for name in names)
    assert drawn.count(">≤ 8<") == 7


def test_labels_of_dots_at_the_ground_stay_inside_the_plot() -> None:
    axis = Figure(figsize=(6.4, 3.6)).subplots()
    axis.set(xlim=(0, 10), ylim=(0, 106))
    label(axis, [(f"row-{n}", 1 + 0.2 * n, 1.0 + n % 2) for n in range(8)])
    assert len(axis.texts) > 4
    assert all(text.get_window_extent().ymin >= axis.bbox.ymin - 2 for text in axis.texts)
