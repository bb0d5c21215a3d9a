"""Recording demonstrations: successes only, and the same dataset after a stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from demonstrations import Corridor, walk
from loci.data.lerobot.check import check
from loci.data.lerobot.dataset import Dataset
from loci.data.lerobot.record import Recorded, acting, record, recorded_features
from loci.data.lerobot.writer import Writer
from loci.errors import LociError

WALK = acting(Corridor(), walk)


def writer(folder: Path) -> Writer:
    observation, _ = Corridor().reset(0)
    return Writer(folder, 10, recorded_features(observation, 2, ["x", "seed"]), "corridor")


def test_successes_become_episodes(tmp_path: Path) -> None:
    said: list[tuple[int, bool]] = []
    with writer(tmp_path / "demo") as out:
        done = record(WALK, range(100), out, 3, lambda *told: said.append(told))
    assert done == Recorded(kept=(0, 2, 4), failed=(1, 3))
    assert said == [(0, True), (1, False), (2, True), (3, False), (4, True)]
    dataset = Dataset.open(tmp_path / "demo")
    assert dataset.cameras == ("observation.images.head",)
    assert dataset.features["action"].names == ["x", "seed"]
    for number, seed in enumerate((0, 2, 4)):
        episode = dataset.episode(number)
        steps = 4 + seed % 3
        assert len(episode) == steps
        assert episode.task == f"walk {seed % 3} far"
        # Frame t is what was seen before action t.
        np.testing.assert_array_equal(episode["observation.state"][:, 0], np.arange(steps))
        np.testing.assert_array_equal(episode["action"], np.tile([1, 0], (steps, 1)))
        np.testing.assert_array_equal(episode["seed"], np.full(steps, seed))
        shown = 10 * np.arange(steps)[:, None, None, None] + seed
        assert np.abs(episode.frames("head") - shown).max() <= 2
    assert check(tmp_path / "demo").broken == []


def test_a_recording_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def tired(env: Corridor) -> Iterator[np.ndarray]:
        if env.seed == 4:
            raise KeyboardInterrupt
        return walk(env)

    with writer(tmp_path / "a") as out, pytest.raises(KeyboardInterrupt):
        record(acting(Corridor(), tired), range(100), out, 4)
    with writer(tmp_path / "a") as out:
        assert record(WALK, range(100), out, 4).kept == (4, 6)
    with writer(tmp_path / "a") as out:
        assert record(WALK, range(100), out, 4).kept == ()
    with writer(tmp_path / "b") as out:
        record(WALK, range(100), out, 4)
    for one, two in zip(Dataset.open(tmp_path / "a"), Dataset.open(tmp_path / "b"), strict=True):
        assert one.columns.keys() == two.columns.keys()
        for name in one.columns:
            np.testing.assert_array_equal(one[name], two[name])
        np.testing.assert_array_equal(one.frames("head"), two.frames("head"))


def test_seeds_that_do_not_do(tmp_path: Path) -> None:
    with writer(tmp_path / "demo") as out:
        with pytest.raises(LociError, match=r"ran out after 1 of 2 episodes \(1 were not solved\)"):
            record(WALK, [2, 3], out, 2)
        with pytest.raises(LociError, match="ends with seed 2, which is not to be recorded"):
            record(WALK, [10, 12], out, 2)


def test_an_expert_that_does_nothing_has_failed(tmp_path: Path) -> None:
    with writer(tmp_path / "demo") as out, pytest.raises(LociError, match="ran out after 0"):
        record(acting(Corridor(), lambda env: iter(())), [0], out, 1)
