"""Sources mixed by weight: shares, what they have in common, and nothing that is lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import demonstrations as made
from loci.data.base import Episodes, EpisodeSpec
from loci.data.mixed import MixedEpisodes, _mixed
from loci.data.sources import LeRobotData, MixedData, RoomsData
from loci.errors import LociError
from loci.geometry import Camera
from loci.models.codecs import PixelCodecConfig


def episodes(count: int, mark: float, actions: bool = True) -> Episodes:
    """Episodes of 1, 2, ... frames whose latents are all `mark`."""
    longest = count
    latents = torch.full((count, longest, 1, 1, 1), mark)
    more = {
        "proprio": torch.full((count, longest, 2), mark),
        "actions": torch.full((count, longest, 1, 2), mark),
        "valid": torch.ones(count, longest, 1, dtype=torch.bool),
    } if actions else {}
    return Episodes(latents=latents, frames=torch.arange(1, count + 1),
                    instructions=tuple(f"{mark:g}.{n}" for n in range(count)), **more)


def test_each_source_has_its_share_and_every_episode_its_place() -> None:
    mixed = MixedEpisodes([episodes(6, 1.0), episodes(2, 2.0)], (1.0, 3.0))
    assert len(mixed) == 6 + 18
    told = Counter(mixed.instructions)
    assert told == {**{f"1.{n}": 1 for n in range(6)}, "2.0": 9, "2.1": 9}
    for pick in (0, 5, 6, 23):
        one = mixed.rows([pick])
        assert one.instructions == (mixed.instructions[pick],)
        assert one.frames.tolist() == [int(mixed.frames[pick])]
        assert float(one.latents.max()) == float(mixed.instructions[pick].partition(".")[0])
    part = mixed.subset([3, 20])
    assert (len(part), part.instructions) == (2, (mixed.instructions[3], mixed.instructions[20]))
    assert part.rows([1]).instructions == (mixed.instructions[20],)
    # What is normalised by is every action once, however often it is drawn.
    assert len(mixed.all_actions()) == 6 * 6 + 2 * 2
    assert len(mixed.all_proprio()) == 1 + 2 + 3 + 4 + 5 + 6 + 1 + 2


def test_without_weights_every_episode_comes_as_often() -> None:
    mixed = MixedEpisodes([episodes(3, 1.0), episodes(2, 2.0)])
    assert sorted(mixed.instructions) == ["1.0", "1.1", "1.2", "2.0", "2.1"]


def test_what_only_some_know_is_left_out() -> None:
    given = replace(episodes(2, 2.0, actions=False), given=torch.tensor([0, 1]))
    mixed = MixedEpisodes([episodes(2, 1.0), given])
    assert set(mixed.rows([0, 3]).parts()) == {"latents"}
    assert mixed.given is not None
    assert mixed.given.tolist() == [0, 0, 0, 1]
    assert mixed.rows([0, 3]).given.tolist() == [0, 1]
    wide = replace(episodes(2, 2.0), proprio=torch.zeros(2, 2, 5))
    with pytest.raises(LociError, match=r"have proprio of shapes \(2,\) and \(5,\)"):
        MixedEpisodes([episodes(2, 1.0), wide])


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.1, 10)), min_size=1, max_size=4))
def test_shares_are_those_of_the_weights(parts: list[tuple[int, float]]) -> None:
    counts, weights = zip(*parts, strict=True)
    places = _mixed(counts, weights)
    for number, (count, weight) in enumerate(parts):
        rows = Counter(places[places[:, 0] == number, 1].tolist())
        assert set(rows) == set(range(count))
        assert max(rows.values()) - min(rows.values()) <= 1
        share = sum(rows.values()) / len(places)
        assert share == pytest.approx(weight / sum(weights), abs=2 * len(parts) / len(places))


def test_datasets_are_mixed_as_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path / "cache"))
    for name, lengths in (("a", [9, 17]), ("b", [12])):
        made.write(tmp_path / name, lengths)
    parts = tuple(LeRobotData(folder=str(tmp_path / n), cameras=("head",)) for n in ("a", "b"))
    data = MixedData(parts=parts, weights=(0.25, 0.75))
    assert MixedData.from_dict(data.to_dict()) == data
    assert data.gives == {"actions"}
    assert data.camera_names == ("head",)
    assert data.embodiment().instructions == ("task 0", "task 1")
    spec = EpisodeSpec(codec=PixelCodecConfig().build(), camera=Camera(height=32, width=48),
                       stride=8, actions=True)
    found = data.load(spec)
    assert found.frames.tolist() == [2, 3] + [2] * 6
    assert len(found.all_actions()) == 9 + 17 + 12
    for parts, weights, words in (
        ((), (), "a mixture of no sources"), (data.parts, (1.0,), "1 weights for 2 sources"),
        (data.parts, (1.0, 0.0), "use numbers above 0"),
        ((data.parts[0], RoomsData()), (), "different cameras, one view and head"),
    ):
        with pytest.raises(LociError, match=words):
            MixedData(parts=parts, weights=weights)
