"""The sources of training data: episodes of one shape, made once, whatever they come from."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import demonstrations as made
from loci.commands.record import record_tabletop
from loci.data import rooms, tabletop
from loci.data.base import Episodes, EpisodeSpec
from loci.data.lerobot.dataset import Dataset
from loci.data.lerobot.episodes import numbers
from loci.data.lerobot.format import Feature
from loci.data.lerobot.writer import Writer
from loci.data.sources import LeRobotData, RoomsData, TabletopData
from loci.errors import LociError
from loci.geometry import Camera
from loci.models.codecs import ImageCodecConfig, PixelCodecConfig
from loci.models.world_action import WorldActionModel
from tiny_world import walk

LENGTHS = [37, 12, 20, 33]
CAMERA = Camera(height=32, width=48)


def recorded(folder: Path) -> LeRobotData:
    return LeRobotData(folder=str(folder), cameras=("head",))


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two demonstrations a file: experts are slow to watch."""
    monkeypatch.setattr(tabletop, "SHARD", 2)


def spec(codec, stride: int = 8, camera: Camera = CAMERA, actions: bool = True) -> EpisodeSpec:
    return EpisodeSpec(codec=codec, camera=camera, stride=stride, actions=actions)


def same(one: Episodes, other: Episodes) -> None:
    assert one.parts().keys() == other.parts().keys()
    for name, part in one.parts().items():
        assert torch.equal(part, other.parts()[name]), name
    assert torch.equal(one.frames, other.frames)
    assert one.instructions == other.instructions


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("demonstrations")
    made.write(path, LENGTHS)
    return path


def test_frames_are_what_was_seen_before_their_chunks(folder):
    """Bit for bit, at every eighth step; actions in chunks, the rest padded and said to be so."""
    codec = PixelCodecConfig().build()
    all_of_them = recorded(folder).load(spec(codec))
    for number, length in enumerate(LENGTHS):
        found = all_of_them.rows([number])
        truth = made.episode(number, length)
        count = -(-length // 8)
        assert found.latents.shape[:2] == (1, count)
        assert found.frames.tolist() == [count]
        assert found.instructions == (f"task {number % 2}",)
        assert np.array_equal(codec.decode(found.latents.float())[0].numpy(),
                              truth[made.HEAD][::8])
        assert np.array_equal(found.proprio[0].numpy(), truth["observation.state"][::8])
        flat = found.actions[0].flatten(0, 1).numpy()
        assert np.array_equal(flat[:length], truth["action"])
        assert (flat[length:] == truth["action"][-1]).all()
        assert found.valid.flatten().tolist() == [n < length for n in range(8 * count)]


def test_a_codec_that_joins_images_gets_those_of_the_chunk_before(folder):
    """Two images a latent frame: steps 4 and 8 of each chunk, after the very first image."""
    asked = []

    class Joining(type(PixelCodecConfig().build())):
        images_per_frame = 2

        def encode(self, video):
            asked.append(video)
            return super().encode(video[:, ::2])

    codec = Joining(PixelCodecConfig())
    found = replace(recorded(folder), episodes=1).load(spec(codec))
    truth = made.episode(0, LENGTHS[0])[made.HEAD]
    assert np.array_equal(asked[0][0].numpy(), truth[:33:4])
    assert found.rows([0]).latents.shape[1] == 5
    with pytest.raises(LociError, match="do not split into 2 images"):
        spec(codec, stride=7)


def test_an_expert_watched_and_its_recording_are_the_same_demonstrations(tmp_path):
    record_tabletop("put-back-block", 2, tmp_path, quality="lossless")
    wanted = spec(PixelCodecConfig().build(), stride=16, camera=Camera(height=96, width=80))
    watched, read = (
        data.load(wanted) for data in (
            TabletopData(task="put-back-block", episodes=2), LeRobotData(folder=str(tmp_path)),
        )
    )
    same(watched, read.rows(range(len(read))))


def test_episodes_of_different_lengths_are_cut_to_the_longest_of_a_step(folder):
    data = recorded(folder).load(spec(PixelCodecConfig().build()))
    assert len(data) == len(LENGTHS)
    part = data.rows([1, 2])
    assert part.latents.shape[:2] == (2, 3)
    assert len(data.all_actions()) == sum(LENGTHS)
    assert len(data.all_proprio()) == sum(-(-n // 8) for n in LENGTHS)
    one = data.rows([1])
    same(Episodes.join([one, data.rows([2])]), part)


def test_demonstrations_drift_as_the_config_says():
    """The hands are elsewhere at every frame but the first, and meant to be where they were."""
    model = WorldActionModel.load("put-back-block-hybrid")
    steady, drifting = (
        TabletopData(task="put-back-block", episodes=1, steady=True, drift=drift).load(
            spec(model.world.codec, stride=16, camera=model.config.world.camera))
        for drift in (0.0, 0.02)
    )
    apart = (drifting.proprio - steady.proprio).abs()[0].amax(-1)
    assert apart[0] == 0
    assert apart[1:].median() > 0.005
    torch.testing.assert_close(drifting.actions[..., -1, :], steady.actions[..., -1, :])


@pytest.mark.parametrize(("data", "message"), [
    (lambda: TabletopData(task="put-back-block", episodes=0), "0 episodes of put-back-block"),
    (lambda: TabletopData(task="put-back-bloc", episodes=1), "did you mean 'put-back-block'"),
    (lambda: TabletopData(task="press-button", episodes=1, drift=-0.1), "use 0 or more"),
    (lambda: TabletopData(task="press-button", episodes=1, cameras=("head", "wrist_left")),
     "no camera 'wrist_left'; did you mean 'left_wrist'"),
    (lambda: LeRobotData(folder="x", episodes=0), "0 episodes of x"),
    (lambda: LeRobotData(folder="x", cameras=()), "no camera of x is named"),
    (lambda: RoomsData(episodes=0), "0 episodes teach nothing"),
])
def test_sources_that_cannot_be_are_refused_before_anything_is_made(data, message):
    with pytest.raises(LociError, match=message):
        data()


def test_a_dataset_that_is_too_small_says_so(folder):
    with pytest.raises(LociError, match="has 4 episodes, and 9 are wanted"):
        replace(recorded(folder), episodes=9).load(spec(PixelCodecConfig().build()))


def test_demonstrations_that_teach_nothing_are_named(folder, tmp_path):
    dataset = Dataset.open(folder)
    broken = dict(dataset.episode(1).columns)

    class Episode:
        index = 1

        def __init__(self, action):
            self.columns = broken | {"action": action}

        def __getitem__(self, name):
            return self.columns[name]

    for action, message in (
        (np.full((12, 14), np.nan), "'action' of episode 1 holds NaN"),
        (np.zeros((0, 14)), "'action' of episode 1 is empty"),
    ):
        with pytest.raises(LociError, match=message):
            numbers(Episode(action), "action")
    made.write(tmp_path / "empty", [5])
    info = tmp_path / "empty" / "meta" / "info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"total_episodes": 0}))
    with pytest.raises(LociError, match="has no episodes to learn from"):
        recorded(tmp_path / "empty").load(spec(PixelCodecConfig().build()))


def test_poses_are_a_column_of_a_dataset(tmp_path):
    """A world model of the camera that moved: frame t is seen from pose t."""
    poses = walk(1, 9)[0].numpy()
    features = {
        "observation.images.head": Feature(dtype="video", shape=(32, 48, 3)),
        "observation.pose": Feature(dtype="float64", shape=(4, 4)),
    }
    with Writer(tmp_path / "a", 10, features, "camera", quality="lossless") as writer:
        writer.add_episode({
            "observation.images.head": made.images(np.random.default_rng(0), 9, 32, 48),
            "observation.pose": poses,
        }, "look around")
    data = LeRobotData(folder=str(tmp_path / "a"), cameras=("head",), poses="observation.pose")
    assert data.gives == {"poses", "actions"}
    found = data.load(spec(PixelCodecConfig().build(), stride=2, actions=False)).rows([0])
    np.testing.assert_allclose(found.poses[0].numpy(), poses[::2])
    assert found.actions is None
    with pytest.raises(LociError, match="these episodes have no actions"):
        found.demonstrated()
    with pytest.raises(LociError, match=r"did you mean 'observation\.pose'"):
        replace(data, poses="observation.pos").load(spec(PixelCodecConfig().build(), actions=False))


def test_shorter_walks_stay_where_they_ended():
    parts = [
        Episodes(latents=torch.ones(1, n, 1, 1, 1), frames=torch.tensor([n]), instructions=("",),
                 poses=walk(1, n))
        for n in (2, 4)
    ]
    joined = Episodes.join(parts)
    assert joined.frames.tolist() == [2, 4]
    assert torch.equal(joined.poses[0, 2:], parts[0].poses[0, 1:].expand(2, 4, 4))
    assert not joined.latents[0, 2:].any()


def test_demonstrations_are_watched_once_and_checked_when_they_are_read(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path))
    data = TabletopData(task="put-back-block", episodes=3)
    wanted = spec(PixelCodecConfig().build(), stride=16, camera=Camera(height=96, width=80))
    with caplog.at_level("INFO"):
        made_now = data.load(wanted)
    assert "watching the expert at put-back-block 4 times first: about" in caplog.text
    assert f"kept in {tmp_path / 'demonstrations'} (LOCI_CACHE" in caplog.text
    caplog.clear()
    monkeypatch.setattr(tabletop, "_watched", None)
    with caplog.at_level("INFO"):
        same(data.load(wanted), made_now)
        assert len(replace(data, episodes=2).load(wanted)) == 2  # a part of the same
    assert not caplog.text
    file = sorted((tmp_path / "demonstrations").iterdir())[0]
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(LociError, match=r"truncated .*; delete .*; it is made again"):
        data.load(wanted)


def test_processes_watch_the_same_demonstrations(tmp_path, monkeypatch):
    wanted = spec(PixelCodecConfig().build(), stride=16, camera=Camera(height=96, width=80))
    found = []
    for many in (1, 99):
        monkeypatch.setenv("LOCI_CACHE", str(tmp_path / str(many)))
        monkeypatch.setattr(tabletop, "MANY", many)
        monkeypatch.setattr(tabletop, "worker_count", lambda items: 2)
        found.append(TabletopData(task="put-back-block", episodes=3).load(wanted))
    same(*found)


def test_walks_are_encoded_once_and_checked_when_they_are_read(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path))
    data = RoomsData(episodes=3, length=9)
    torch.manual_seed(0)
    wanted = spec(ImageCodecConfig().build().eval(), stride=1, actions=False,
                  camera=Camera(height=16, width=16))
    with caplog.at_level("INFO"):
        made_now = data.load(wanted)
    assert re.search(r"rendering 3 training episodes first: about .* kept in .*train", caplog.text)
    assert made_now.latents.dtype == torch.float16
    assert made_now.latents.shape == (3, 9, 8, 2, 2)
    assert made_now.poses.shape == (3, 9, 4, 4)
    monkeypatch.setattr(rooms, "render_walks", None)
    same(data.load(wanted), made_now)
    (path,) = (tmp_path / "latents").iterdir()
    content = path.read_bytes()
    altered = bytearray(content)
    altered[-3] ^= 0xFF
    for bad, words in ((content[:-50], "truncated"), (bytes(altered), "corrupt"), (b"", "trunc")):
        path.write_bytes(bad)
        with pytest.raises(LociError, match=words) as error:
            data.load(wanted)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(LociError, match="the rooms have no actions"):
        data.load(spec(wanted.codec, stride=1))


def test_another_codec_is_other_latents(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path))
    data, codecs = RoomsData(episodes=1, length=5), []
    for seed in range(2):
        torch.manual_seed(seed)
        codecs.append(ImageCodecConfig().build().eval())
    one, two = (
        data.load(spec(codec, stride=1, actions=False, camera=Camera(height=16, width=16)))
        for codec in codecs
    )
    assert not torch.equal(one.latents, two.latents)
    assert torch.equal(one.poses, two.poses)
