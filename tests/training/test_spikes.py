"""Steps whose loss leaps change nothing, are written down, and are the same after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny_run
from loci.errors import LociError
from loci.io.checkpoint import load_checkpoint
from loci.training import spikes
from loci.training.run import run
from loci.training.spikes import Spikes

BAD = (6, 9)


class Killed(Exception):
    pass


@pytest.fixture
def leaping(monkeypatch: pytest.MonkeyPatch):
    """A task whose loss leaps at some steps, and a kill before another."""
    monkeypatch.setattr(spikes, "AFTER", 3)
    make = tiny_run.TinyTask.batch

    def arrange(bad: tuple[int, ...] = BAD, killed: int = -1) -> None:
        def batch(self: tiny_run.TinyTask, step: int):
            if step == killed:
                raise Killed
            made = make(self, step)
            return made | {"y": 1000 * made["y"]} if step in bad else made

        monkeypatch.setattr(tiny_run.TinyTask, "batch", batch)

    return arrange


def config(spike: float | None = 15.0) -> tiny_run.TinyRun:
    whole = tiny_run.tiny()
    return replace(whole, train=replace(whole.train, steps=14, spike=spike, save_every=0.0))


def events(out: Path) -> list[dict]:
    found = map(json.loads, (out / "train.jsonl").read_text().splitlines())
    return [line for line in found if line.get("event") == "spike"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(out / "model.safetensors", "tiny").tensors


def test_a_leap_changes_nothing_and_a_kill_neither(leaping, tmp_path: Path) -> None:
    leaping()
    run(config(), tmp_path / "whole")
    assert [line["step"] for line in events(tmp_path / "whole")] == [7, 10]
    assert all(line["left_out"] > 1e4 for line in events(tmp_path / "whole"))
    leaping(killed=8)
    with pytest.raises(Killed):
        run(config(), tmp_path / "killed")
    leaping()
    run(config(), tmp_path / "killed", resume=True)
    assert events(tmp_path / "killed") == events(tmp_path / "whole")
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "killed")[name], value), name


def test_it_is_asked_for(leaping, tmp_path: Path) -> None:
    """Without a ratio nothing is left out; where nothing leaps, the ratio changes nothing."""
    leaping(())
    run(config(None), tmp_path / "plain")
    run(config(), tmp_path / "asked")
    leaping()
    run(config(None), tmp_path / "leapt")
    plain, asked, leapt = (weights(tmp_path / name) for name in ("plain", "asked", "leapt"))
    assert all(torch.equal(plain[name], asked[name]) for name in plain)
    assert not all(torch.equal(plain[name], leapt[name]) for name in plain)
    assert events(tmp_path / "asked") == events(tmp_path / "leapt") == []


def test_many_in_a_row_are_no_accident() -> None:
    found = Spikes(10.0, average=1.0)
    assert not found.leaps(spikes.AFTER - 1, 99.0)
    found = Spikes(10.0, average=1.0)
    assert all(found.leaps(spikes.AFTER + n, 11.0) for n in range(spikes.MOST - 1))
    again = Spikes(10.0, *found.state())
    with pytest.raises(LociError, match=r"10 steps in a row .* lower lr"):
        again.leaps(spikes.AFTER + spikes.MOST, 11.0)
    assert not found.leaps(spikes.AFTER, 1.0)
    assert found.state()[1] == 0
