"""LeRobot datasets as training data: kept by content, read when drawn, split, cut, resampled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import demonstrations as made
from loci.data.base import EpisodeSpec
from loci.data.lerobot import episodes as source
from loci.data.lerobot.dataset import Episode
from loci.data.lerobot.resample import Resampling
from loci.data.sources import LeRobotData
from loci.data.stored import StoredEpisodes
from loci.errors import LociError
from loci.geometry import Camera
from loci.models.codecs import PixelCodecConfig

LENGTHS = [21, 12, 20, 5, 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demonstrations")
    made.write(path, LENGTHS)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "latents"


def load(folder: Path, stride: int = 4, **options: Any) -> StoredEpisodes:
    data = LeRobotData(folder=str(folder), cameras=("head",), **options)
    return data.load(EpisodeSpec(
        codec=PixelCodecConfig().build(), camera=Camera(height=32, width=48), stride=stride,
        actions=True,
    ))


def test_what_was_decoded_once_is_read_from_then_on(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SHARD", 2)
    first = load(folder)
    assert len(list(cache.iterdir())) == 3
    decoded, frames = [], Episode.frames
    monkeypatch.setattr(
        Episode, "frames", lambda self, *more: decoded.append(self.index) or frames(self, *more)
    )
    again = load(folder)
    assert decoded == []
    for pick in range(5):
        one, other = first.rows([pick]), again.rows([pick])
        assert all(part.equal(other.parts()[name]) for name, part in one.parts().items())
    assert len(load(folder, episodes=2)) == 2  # a part of the same
    assert decoded == []
    first.shards[1].file.unlink()
    load(folder)
    assert decoded == [2, 3]


def test_pieces_are_cut_from_long_episodes(folder: Path) -> None:
    found = load(folder, window=8)
    assert found.frames.tolist() == [2, 2, 2, 2, 1, 2, 2, 1, 2, 2, 1]
    truth = made.episode(0, 21)
    one = found.rows([1])
    assert one.actions is not None
    np.testing.assert_array_equal(one.actions.flatten(0, 2).numpy(), truth["action"][8:16])
    shown = PixelCodecConfig().build().decode(one.latents.float())[0].numpy()
    np.testing.assert_array_equal(shown, truth[made.HEAD][8:16:4])
    assert len(found.all_actions()) == sum(LENGTHS)


def test_episodes_are_on_one_side(folder: Path) -> None:
    data = LeRobotData(folder=str(folder), cameras=("head",), heldout=0.5)
    train, out = load(folder, heldout=0.5), load(folder, heldout=0.5, split="heldout")
    assert len(train) + len(out) == 5
    assert min(len(train), len(out)) >= 1
    lengths = sorted(len(side.rows([n]).actions.flatten(0, 2)[side.rows([n]).valid.flatten()])
                     for side in (train, out) for n in range(len(side)))
    assert lengths == sorted(LENGTHS)
    with pytest.raises(LociError, match=r"none of 5 episodes .* is in split 'heldout'"):
        load(folder, split="heldout")
    assert LeRobotData.from_dict(data.to_dict()) == data
    assert "rate" not in data.to_dict()  # as recipes of earlier versions have it


def test_a_policy_has_its_own_rate(folder: Path) -> None:
    """Recorded at 10 a second: at 5 every second frame, and the target of the one between them."""
    truth = made.episode(0, 21)
    slow = load(folder, stride=2, rate=5.0).rows([0])
    assert slow.actions is not None
    assert slow.proprio is not None
    count = 10
    np.testing.assert_array_equal(
        slow.actions.flatten(0, 2)[:count].numpy(), truth["action"][1::2][:count]
    )
    np.testing.assert_array_equal(slow.proprio[0].numpy(), truth["observation.state"][:20:4])
    shown = PixelCodecConfig().build().decode(slow.latents.float())[0].numpy()
    np.testing.assert_array_equal(shown, truth[made.HEAD][:20:4])
    same = load(folder, rate=10.0).rows([0])
    assert same.actions is not None
    np.testing.assert_array_equal(same.actions.flatten(0, 2)[:21].numpy(), truth["action"])
    data = LeRobotData(folder=str(folder), cameras=("head",))
    assert [replace(data, rate=rate).embodiment().rate for rate in (None, 5.0)] == [10.0, 5.0]


def test_three_steps_go_where_one_went() -> None:
    time = Resampling(4, fps=10, rate=30)
    assert time.steps == 12
    values = np.array([[0.0], [3.0], [6.0], [9.0]])
    steps = np.arange(12)
    np.testing.assert_allclose(
        time.actions(values, steps)[:, 0], [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    )
    np.testing.assert_allclose(
        time.states(values, steps)[:, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9]
    )
    assert time.moments(steps).tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]


@given(st.integers(1, 60), st.sampled_from([10.0, 15.0, 30.0, 50.0]),
       st.sampled_from([5.0, 7.0, 10.0, 15.0, 24.0, 30.0]))
def test_no_rate_leaves_the_episode(length: int, fps: float, rate: float) -> None:
    time = Resampling(length, fps, rate)
    values, steps = np.arange(length, dtype=np.float32)[:, None], np.arange(time.steps)
    for found in (time.states(values, steps)[:, 0], time.actions(values, steps)[:, 0],
                  time.moments(steps)):
        assert (np.diff(found) >= 0).all()
        assert 0 <= found.min() <= found.max() <= length - 1
    # The end is the end, to a step of either.
    last = time.actions(values, steps)[-1, 0]
    assert length - 1 - last <= max(1.0, fps / rate)
    if fps == rate:
        np.testing.assert_array_equal(time.actions(values, steps), values)
        np.testing.assert_array_equal(time.states(values, steps), values)


@pytest.mark.parametrize(("options", "words"), [
    ({"rate": 0.0}, "0 steps a second"), ({"window": 0}, "windows of 0 steps"),
    ({"heldout": 1.0}, "a share of 1 held out"),
])
def test_settings_that_cannot_be_are_refused(options: dict, words: str) -> None:
    with pytest.raises(LociError, match=words):
        LeRobotData(folder="x", **options)
