"""What memories observe along the walks of training: worked out once, kept, and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from loci.data import rooms
from loci.data.base import EpisodeSpec
from loci.data.rooms import RoomsData
from loci.data.survey import Surveyor
from loci.errors import LociError
from loci.geometry import Camera, relative_to
from loci.geometry.depth import intrinsics_of
from loci.memory import Compose, Episodic, Map
from loci.memory.frames import Frames
from loci.models.codecs import ImageCodecConfig
from loci.worlds.rooms.paths import wander
from loci.worlds.rooms.room import sample_room

CAMERA = Camera(height=32, width=32)
MAP, KEYS = Map(read="channels"), Episodic(frames=2, read="cross")


def spec(memory) -> EpisodeSpec:
    torch.manual_seed(0)
    codec = ImageCodecConfig().build().eval()
    return EpisodeSpec(codec=codec, camera=CAMERA, surveyor=Surveyor(memory, codec, CAMERA, 4))


def test_a_survey_is_made_once_and_is_that_of_the_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path))
    data = RoomsData(episodes=2, length=9)
    found = data.load(spec(Compose(members=(MAP, KEYS)))).surveyed
    assert set(found) == {"map.shown", "key-frames.picks"}
    assert found["map.shown"].shape == (2, 2, 4, 8 + 3, 4, 4)
    asked = spec(MAP)
    room = sample_room(1, "train")
    way = wander(room.start, 1, room, 8).poses
    views, poses = room.render(way, CAMERA), torch.from_numpy(way)[None]
    images = torch.from_numpy(views.rgb)[None]
    assert asked.surveyor is not None
    alone = asked.surveyor.survey(Frames(
        asked.codec.encode(images), relative_to(poses[:, 0], poses), torch.zeros(1, 9),
        torch.from_numpy(views.depth)[None], intrinsics_of(CAMERA).expand(1, 9, 3, 3), images,
    ))
    torch.testing.assert_close(
        found["map.shown"][1:].float(), alone["map.shown"], atol=5e-3, rtol=5e-3
    )

    def never(*args: object, **more: object) -> dict[str, np.ndarray]:
        raise AssertionError("made again")

    monkeypatch.setattr(rooms, "survey_walks", never)
    again = data.load(asked).surveyed
    assert torch.equal(again["map.shown"], found["map.shown"])
    for file in (tmp_path / "surveys").iterdir():
        file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(LociError, match=r"survey .* is truncated"):
        data.load(asked)
