"""Episodes on disk: whole, checked, and the same as when they were rendered."""

import av
import numpy as np
import pytest
from PIL import Image

from loci.commands.render_room import render_room
from loci.data import episodes
from loci.data.episodes import EpisodeCache, render_episode
from loci.errors import LociError
from loci.geometry import Camera
from loci.io.captions import BAND
from loci.io.pictures import contact_sheet, write_frames, write_video

SMALL = Camera(height=16, width=16)


def same(a: episodes.Episode, b: episodes.Episode) -> None:
    for name in ("rgb", "depth", "identity", "poses", "pairs"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert (a.out, a.seed, a.split, a.path) == (b.out, b.seed, b.split, b.path)


def test_the_cache_gives_what_was_rendered(tmp_path, monkeypatch):
    cache = EpisodeCache(tmp_path)
    truth = render_episode("heldout", 3, "left45-return", SMALL)
    same(cache.get("heldout", 3, "left45-return", SMALL), truth)
    monkeypatch.setattr(episodes, "render_episode", None)
    same(cache.get("heldout", 3, "left45-return", SMALL), truth)


def test_another_camera_is_another_episode(tmp_path):
    cache = EpisodeCache(tmp_path)
    cache.get("train", 0, "left45-return", SMALL)
    assert cache.get("train", 0, "left45-return", Camera(height=8, width=8)).rgb.shape[1:3] == (
        8,
        8,
    )
    assert len(list(tmp_path.iterdir())) == 2


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    middle = len(data) - 700
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def age(data: bytes) -> bytes:
    return data.replace(episodes.FORMAT.encode(), b"loci-episodes-0", 1)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (truncate, "truncated"),
        (flip, "corrupt"),
        (age, "version loci-episodes-0"),
        (lambda data: b"", "truncated"),
        (lambda data: b"\x89PNG not an episode at all", "truncated or no episode"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, damage, word):
    cache = EpisodeCache(tmp_path)
    cache.get("train", 1, "right45-return", SMALL)
    file = cache.file("train", 1, "right45-return", SMALL)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(LociError, match=word) as caught:
        cache.get("train", 1, "right45-return", SMALL)
    assert f"delete {file}; it is made again" in str(caught.value)
    assert "\n" not in str(caught.value)
    file.unlink()
    cache.get("train", 1, "right45-return", SMALL)


def test_a_renamed_file_is_refused(tmp_path):
    cache = EpisodeCache(tmp_path)
    cache.get("train", 1, "left45-return", SMALL)
    cache.file("train", 1, "left45-return", SMALL).rename(
        cache.file("train", 2, "left45-return", SMALL)
    )
    with pytest.raises(LociError, match="another episode"):
        cache.get("train", 2, "left45-return", SMALL)


def test_unusable_requests(tmp_path):
    with pytest.raises(LociError, match="did you mean 'loop360'"):
        EpisodeCache(tmp_path).get("train", 0, "loop36")
    with pytest.raises(LociError, match="did you mean 'open'"):
        EpisodeCache(tmp_path).get("opn", 0, "loop360")
    (tmp_path / "file").write_text("")
    with pytest.raises(LociError, match="cannot write"):
        EpisodeCache(tmp_path / "file").get("train", 0, "left45-return", SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_render_room_writes_video_and_sheet(tmp_path):
    said: list[str] = []
    episode = render_room("heldout", 3, "left45-return", tmp_path / "x.mp4", said.append)
    render_room("heldout", 3, "left45-return", tmp_path / "x.png", said.append)
    assert len(said) == 2
    with av.open(str(tmp_path / "x.mp4")) as file:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
    assert frames.shape == (9, 256, 256, 3)
    small = frames.reshape(9, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - episode.rgb).mean() < 6
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.size[0] > sheet.size[1]
    with pytest.raises(LociError, match=r"'\.mp4'"):
        render_room("heldout", 3, "left45-return", tmp_path / "x.mp3")
    with pytest.raises(LociError, match=r"x\.png is a file; choose another folder"):
        render_room("heldout", 3, "left45-return", tmp_path / "x.png" / "y.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.mp4", "x.png"]


def test_sheets_hold_every_frame():
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    sheet = np.asarray(contact_sheet(frames, columns=2, magnify=1, gap=1))
    # Each has its number below it; both sides are even.
    down = 4 + BAND + 1
    assert sheet.shape == (3 * down + 1, 2 * 7 + 2, 3)
    np.testing.assert_array_equal(sheet[2 * down + 1 : 2 * down + 5, 1:7], frames[4])
    # Two videos of one numbering, one above the other.
    both = contact_sheet(np.concatenate([frames, frames]), 5, 1, 1, numbers=[*range(5)] * 2)
    np.testing.assert_array_equal(np.asarray(both)[:down], np.asarray(both)[down : 2 * down])
    with pytest.raises(LociError, match="columns"):
        contact_sheet(frames, columns=0)
    with pytest.raises(LociError, match="uint8"):
        contact_sheet(frames.astype(float))


def test_frames_go_where_they_can(tmp_path):
    frames = np.zeros((2, 7, 9, 3), np.uint8)
    write_video(tmp_path / "odd.mp4", frames, magnify=1)
    with pytest.raises(LociError, match="video name"):
        write_video(tmp_path / "odd.png", frames)
    with pytest.raises(LociError, match="cannot write"):
        write_frames(tmp_path / "odd.gif", frames)
    with pytest.raises(LociError, match="uint8"):
        write_video(tmp_path / "none.mp4", frames[:0])
    assert [p.name for p in tmp_path.iterdir()] == ["odd.mp4"]
