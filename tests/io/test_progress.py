"""What is said of long work where nobody sits at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from loci.commands.messages import messages_shown
from loci.io import progress
from loci.io.progress import Progress, tracked

Advance = Callable[[float], None]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Iterator[Advance]:
    """Lets seconds pass on the clock that progress reads, at a command's work."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    with messages_shown():
        yield wait


def test_a_line_now_and_then_says_how_far_it_is(
    wait: Advance, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("measuring", 100) as shown:
        for _ in range(9):
            wait(4)
            shown.advance(2, "hybrid")
    out, err = capsys.readouterr()
    assert out == ""
    # 30 seconds had passed after the eighth: 16 of 100 in 32 seconds, 84 more take 168.
    assert err == "measuring: 16/100, hybrid, 3 min left\n"


def test_what_was_done_before_says_nothing_of_the_speed(
    wait: Advance, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("run", 1000, done=990) as shown:
        shown.now("loss 0.5")
        wait(40)
        shown.advance(4)
    assert capsys.readouterr().err == "run: 994/1000, loss 0.5, 60 s left\n"


def test_a_terminal_shows_names_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder may be called anything: neither a format nor markup."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with messages_shown(), Progress("{runs} [bold]", 4, done=1) as shown:
        shown.advance(1, "loss [0.5]")
    err = capsys.readouterr().err
    assert "{runs} [bold]" in err
    assert "loss [0.5]" in err
    assert "2/4" in err


@pytest.mark.parametrize("terminal", ["0", "1"])
def test_a_program_that_does_not_ask_sees_nothing(
    terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    if terminal == "1":
        monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("rendering", 2) as shown:
        shown.advance()
    assert capsys.readouterr() == ("", "")
    with messages_shown(), Progress("rendering", 2) as shown:
        shown.advance()
    assert "rendering" in capsys.readouterr().err


def test_tracked_things_come_one_by_one(
    wait: Advance, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []

    def things():
        for number in range(3):
            drawn.append(number)
            yield number

    seen = tracked(things(), "encoding", 3)
    assert next(seen) == 0
    assert drawn == [0]
    wait(31)
    assert list(seen) == [1, 2]
    assert capsys.readouterr().err == "encoding: 1/3, 62 s left\n"
