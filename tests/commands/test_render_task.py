"""`loci worlds render tabletop`: files that play, and one line for what cannot be rendered."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from PIL import Image

from loci.commands import main as cli
from loci.commands.render_task import render_task


def ending(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leave:
        cli.main(["worlds", "render", *arguments])
    return int(str(leave.value))


def test_a_video_has_every_step_and_a_sheet_every_chunk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, sheet = tmp_path / "x.mp4", tmp_path / "x.png"
    cli.main(["worlds", "render", "tabletop", "--out", str(video)])
    said = capsys.readouterr().out
    assert said.startswith(f"{video}: put-back-block 0, ")
    assert "success" in said
    with av.open(str(video)) as file:
        stream = file.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (320, 384, 20)
        frames = sum(1 for _ in file.decode(stream))
    assert f" {frames - 1} steps" in said

    shown = render_task("put-back-block", 0, sheet, view="head", report=lambda _: None)
    assert shown.shape == (-(-(frames - 1) // 16) + 1, 64, 80, 3)
    assert Image.open(sheet).width > 8 * 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabletop", "--task", "cover-block"], "did you mean 'cover-blocks'"),
        (["tabletop", "--path", "loop180"], "--path is not for tabletop"),
        (["tabletop", "--split", "train"], "--split is not for tabletop"),
        (["rooms", "--task", "cover-blocks"], "--task is not for rooms"),
        (["rooms", "--view", "head"], "--view is not for rooms"),
        (["tabletop", "--seed", "-1"], "seed -1 is negative"),
        (["tabletop", "--hold", "0"], "give 1 or more"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    out = tmp_path / "x.mp4"
    assert ending(*arguments, "--out", str(out)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_an_unknown_ending_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending("tabletop", "--out", str(tmp_path / "x.gif")) == 2
    assert "cannot write '.gif' files" in capsys.readouterr().err
