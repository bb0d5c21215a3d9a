"""`loci bench`: what is held is what the plan says, and all rows take turns."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from rich.console import Console

from host import asked_of_the_host
from loci.commands import bench as command
from loci.commands import main as cli
from loci.commands.bench import bench, parse_frames, tables
from loci.commands.options import listed
from loci.commands.show import console_table
from loci.errors import LociError
from loci.io.timing import graphed, in_turns, milliseconds
from loci.memory import ROWS
from loci.study.bench.cost import BLOCK, FRAMES, Stream, hold
from loci.study.bench.rooms import RoomsBench
from loci.study.estimates import spread
from tiny_world import tiny_world

LENGTHS = (1, 5, BLOCK + 5)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    return file, bench(None, ["hybrid", "joint-5", "strided"], LENGTHS[::-1], 2, None, file)


def test_every_row_is_weighed_and_timed_at_every_length(done) -> None:
    file, results = done
    assert json.loads(file.read_text()) == results
    protocol, rows = results["protocol"], results["rows"]
    assert list(rows) == list(protocol["rows"]) == ["none", "hybrid", "joint-5", "strided"]
    for name, lengths in rows.items():
        assert list(lengths) == [str(n) for n in LENGTHS]
        for frames, costs in lengths.items():
            held = ROWS[name].tokens_held(int(frames), protocol["tokens_a_frame"])
            assert costs["tokens"] == held
            assert costs["bytes"] > 0
            for act in RoomsBench.acts:
                for what in (costs[f"{act}_ms"], costs[f"{act}_ratio"]):
                    assert 0 < what["lo"] <= what["median"] <= what["hi"]
                    # The last frames before that are written one by one; there may be only one.
                    assert what["n"] == (1 if act == "write" and frames == "1" else 2)
            if name == "none":
                assert costs["chunk_ratio"]["median"] == 1.0
        assert costs["chunk_ms"]["hi"] > costs["evaluation_ms"]["lo"]
    for key in ("commit", "device", "dtype", "threads", "steps", "chunk", "repeats", "command"):
        assert key in protocol
    # The row of a user's file says which.
    assert [f["file"] for f in protocol["rows"]["strided"]["files"]] == ["add_a_memory.py"]
    assert "files" not in protocol["rows"]["hybrid"]


def test_the_table_has_rows_side_by_side(done) -> None:
    _, results = done
    texts = []
    for width in (150, 80):
        with open(os.devnull, "w") as nowhere:
            console = Console(width=width, record=True, file=nowhere)
            for grid in tables(results):
                console.print(console_table(grid, width))
        texts.append(console.export_text())
    for text in texts:
        lines = [line.split()[:2] for line in text.splitlines() if line.strip()]
        assert [a for a in lines if a[0] in map(str, LENGTHS)] == [
            [str(n), name] for n in LENGTHS for name in results["rows"]
        ]
        assert "…" not in text
    assert "medians [quartiles] of 2 turns" in texts[0]


def test_the_command_prints_json_or_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, done
) -> None:
    calls = []

    def run(*arguments):
        calls.append(arguments)
        return done[1]

    monkeypatch.setattr(command, "bench", run)
    monkeypatch.setenv("COLUMNS", "100")
    cli.main(["bench"])
    assert "times none" in capsys.readouterr().out
    file = tmp_path / "x.json"
    cli.main([
        "bench", "--rows", "hybrid, none", "--frames", "1,9", "--repeats", "3", "--json",
        "--out", str(file),
    ])
    assert json.loads(capsys.readouterr().out) == done[1]
    assert calls == [
        (None, None, None, 7, None, None), (None, ("hybrid", "none"), (1, 9), 3, None, file)
    ]


def test_mistakes_name_the_fix(tmp_path: Path) -> None:
    for ask, words in (
        (lambda: bench(None, ["hybird"]), "memory row 'hybird'; did you mean 'hybrid'"),
        (lambda: bench(None, ["none"], [5, 0]), "after 1 frame or more"),
        (lambda: RoomsBench(["none"], []), "after 1 frame or more"),
        (lambda: bench(None, ["none"], [10**9]), "1,000,000,000 frames are more than 100,000"),
        (lambda: bench(None, ["none"], repeats=0), "0 repeats measure nothing"),
        (lambda: bench(None, ["none"], memory=-1), "give --memory some gigabytes"),
        (lambda: bench(None, ["none"], [9], memory=1e-9), "not even none fits .* more gigabytes"),
        (lambda: bench(None, ["none"], out=tmp_path), "is a folder; name a file"),
        (lambda: parse_frames("25,many"), "'25,many' are no numbers of frames"),
        (lambda: listed(" ,"), "names no row"),
    ):
        with pytest.raises(LociError, match=words) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_acts_take_turns_after_one_to_warm_up() -> None:
    order, heard = [], []
    acts = {name: lambda name=name: order.append(name) for name in "ab"}
    times = in_turns(acts, 2, torch.device("cpu"), done=lambda: heard.append(1))
    assert "".join(order) == "ababab"
    assert len(heard) == 6
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2}
    order.clear()
    in_turns(acts, 1, torch.device("cpu"), warm=False)
    assert "".join(order) == "ab"
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "lo": 1.5, "hi": 2.5, "n": 3}


@pytest.mark.parametrize("name", ["hybrid", "joint-5", "ssm"])
def test_what_a_stream_holds_does_not_depend_on_how_it_came(name: str) -> None:
    """In blocks or frame by frame; `hold` reports what is there after 40 and 400 frames."""
    model = tiny_world(ROWS[name])
    found = hold({name: model, "none": tiny_world(ROWS["none"])})
    both = {row: costs["held"] for row, costs in found.items()}
    held = both[name]
    assert set(both) == {name, "none"}
    assert min(costs["milliseconds"] for costs in found.values()) > 0
    assert both["none"]["tokens"] == model.tokens
    memory = ROWS[name]
    for frames in (400, 6400):
        assert held[f"tokens_at_{frames}"] == memory.tokens_held(frames, model.tokens)
    with torch.inference_mode():
        stream = Stream(model, model.session())
        for _ in range(FRAMES):
            stream.write()
        assert (held["tokens"], held["bytes"]) == (
            stream.session.tokens(), stream.session.bytes()
        )
        stream.advance(401)
        assert stream.written == 401
        last = stream.session.bytes()
    assert (held["bytes_at_400"] < last) == (memory.growth == "linear")


@pytest.mark.gpu
def test_a_gpu_is_timed_until_it_is_done() -> None:
    device = torch.device("cuda")
    x = torch.randn(4096, 4096, device=device)
    milliseconds(lambda: x @ x, device)
    once = milliseconds(lambda: x @ x, device)
    assert milliseconds(lambda: [x @ x for _ in range(50)], device) > 20 * once


def test_what_a_graph_could_not_hold_is_found() -> None:
    x = torch.arange(3.0)
    for act in (
        lambda: x.sum().item(), lambda: x[x > 1], lambda: x + torch.tensor([1.0, 2.0, 3.0]),
        lambda: x.nonzero(), lambda: x + torch.arange(3),
    ):
        assert asked_of_the_host(act), act
    assert not asked_of_the_host(lambda: x[1:] * 2 + torch.ones(2, device=x.device))


def test_without_a_gpu_nothing_is_recorded() -> None:
    act = list[int]
    assert graphed(act, torch.device("cpu")) is act


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["none", "hybrid", "mixture", "delta"])
def test_a_recorded_step_computes_what_a_step_computes(name: str) -> None:
    device = torch.device("cuda")
    model = tiny_world(ROWS[name]).to(device)
    with torch.inference_mode():
        stream = Stream(model, model.session())
        stream.advance(9)
        reading = stream.session.read(stream.poses(2))
        noise = stream.noise[:, :2].clone()
        out = torch.zeros_like(noise)
        act = graphed(
            lambda: out.copy_(stream.session.denoise(reading, noise, 0.5)), device
        )
        for _ in range(2):
            noise.normal_()
            act()
            expected = stream.session.denoise(reading, noise, 0.5)
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
