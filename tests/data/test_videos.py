"""A folder of videos with poses: whatever they are called and however they are turned, one frame of
reference comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loci.data.base import EpisodeSpec
from loci.data.sources import VideosData
from loci.data.videos import VideoScene
from loci.errors import LociError
from loci.geometry.depth import intrinsics_of
from loci.io.video import encode
from loci.models.codecs import PixelCodecConfig
from loci.worlds.rooms.room import sample_room
from tiny_set import TINY

CAMERA = TINY.camera
COUNT = 21


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray, bytes]:
    """Pictures of a room, their poses, and a video of them."""
    poses = TINY.poses(0)[:COUNT]
    rgb = sample_room(0, "train").render(poses, CAMERA).rgb
    return rgb, poses, encode(rgb, 10, "lossless")


@pytest.fixture
def folder(tmp_path: Path, truth: tuple[np.ndarray, np.ndarray, bytes]) -> Path:
    """One video with its poses as JSON, another as an archive."""
    _, poses, video = truth
    out = tmp_path / "videos"
    out.mkdir()
    matrix = intrinsics_of(CAMERA).numpy()
    for name in ("a", "b"):
        (out / f"{name}.mp4").write_bytes(video)
    (out / "a.json").write_text(json.dumps(
        {"poses": poses[:, :3].tolist(), "intrinsics": matrix.tolist(), "caption": "A room."}
    ))
    np.savez(out / "b.npz", poses=poses, intrinsics=np.tile(matrix, (COUNT, 1, 1)))
    return out


def spec(stride: int = 1) -> EpisodeSpec:
    return EpisodeSpec(codec=PixelCodecConfig().build(), camera=CAMERA, stride=stride)


def data(folder: Path, **options: Any) -> VideosData:
    return VideosData(folder=str(folder), **{"split": "all", "length": 9, **options})


def test_episodes_are_what_the_videos_show(
    folder: Path, truth: tuple[np.ndarray, np.ndarray, bytes]
) -> None:
    rgb, poses, _ = truth
    found = data(folder, hop=6).load(spec(2))
    assert found.frames.tolist() == [5] * 6
    assert found.instructions == ("A room.",) * 3 + ("",) * 3
    for pick in range(6):
        one, moments = found.rows([pick]), range(6 * (pick % 3), 6 * (pick % 3) + 9, 2)
        shown = PixelCodecConfig().build().decode(one.latents.float())[0].numpy()
        np.testing.assert_array_equal(shown, rgb[list(moments)])
        assert one.poses is not None
        np.testing.assert_array_equal(one.poses[0].numpy(), poses[list(moments)])


@pytest.mark.parametrize("change", ["inverse", "opengl", "centimetres", "all of it"])
def test_other_conventions_are_converted_once(
    folder: Path, truth: tuple[np.ndarray, np.ndarray, bytes], change: str
) -> None:
    _, poses, _ = truth
    given, options = poses.copy(), {}
    if change in ("centimetres", "all of it"):
        given[:, :3, 3] *= 100
        options["unit"] = 0.01
    if change in ("opengl", "all of it"):
        given[:, :3, 1:3] *= -1
        options["axes"] = "opengl"
    if change in ("inverse", "all of it"):
        given = np.linalg.inv(given)
        options["direction"] = "world-to-camera"
    (folder / "b.npz").unlink()
    np.savez(folder / "b.npz", cam=given)
    scene = VideoScene(folder, "b", data(folder, poses="cam", fov=CAMERA.fov, **options))
    np.testing.assert_allclose(scene.poses, poses, atol=1e-12)
    np.testing.assert_allclose(scene.intrinsics, intrinsics_of(CAMERA).numpy())


def test_context_is_what_was_seen_before(folder: Path) -> None:
    found = data(folder, context=2).load(spec())
    assert found.given is not None
    assert found.given.tolist() == [0, 2] * 2
    scene = VideoScene(folder, "a", data(folder))
    before = scene.earlier(range(9, 18), 2)
    assert max(before) < 9
    one = found.rows([1])
    assert one.poses is not None
    np.testing.assert_array_equal(one.poses[0, :2].numpy(), scene.poses[before])


def test_another_video_is_encoded_anew(
    folder: Path, truth: tuple[np.ndarray, np.ndarray, bytes]
) -> None:
    first = data(folder).load(spec()).rows([2]).latents
    (folder / "b.mp4").write_bytes(encode(truth[0][::-1], 10, "lossless"))
    again = data(folder).load(spec())
    assert not torch.equal(again.rows([2]).latents, first)
    assert torch.equal(again.rows([0]).latents, first)


def rewritten(folder: Path, **changes: Any) -> None:
    file = folder / "a.json"
    numbers = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in numbers.items() if v is not None}))


@pytest.mark.parametrize(("damage", "words"), [
    (lambda f: rewritten(f, poses=np.eye(4)[None].tolist()), "has 21 frames and 1 poses"),
    (lambda f: rewritten(f, poses=None), r"a\.json has no 'poses'"),
    (lambda f: rewritten(f, poses=[[1, 2]]), r"'poses' is \(1, 2\); give a 4x4"),
    (lambda f: rewritten(f, poses=[["x"]]), "holds something else than numbers"),
    (lambda f: rewritten(f, poses=np.full((21, 4, 4), np.nan).tolist()),
     "'poses' of frame 0 is NaN"),
    (lambda f: rewritten(f, poses=np.ones((21, 3, 4)).tolist()), "frame 0 .* is no rigid motion"),
    (lambda f: rewritten(f, intrinsics=None), "no 'intrinsics'.* and no fov is given"),
    (lambda f: rewritten(f, intrinsics=np.diag([9.0, -9, 1]).tolist()), "is no single pinhole"),
    (lambda f: (f / "a.json").write_text("["), r"cannot read poses .*a\.json"),
    (lambda f: (f / "a.json").write_text("[]"), "holds no map"),
    (lambda f: (f / "b.npz").write_bytes(b"PK"), r"cannot read poses .*b\.npz"),
    (lambda f: (f / "a.json").unlink(), "has no file of poses"),
    (lambda f: np.savez(f / "a.npz", poses=1), "has two files of poses"),
    (lambda f: (f / "a.mp4").write_bytes(b"x"), "is truncated or no video"),
    (lambda f: [file.unlink() for file in f.glob("*.mp4")], "has no video; give a folder"),
])
def test_damage_is_a_line_that_names_it(folder: Path, damage: Any, words: str) -> None:
    damage(folder)
    with pytest.raises(LociError, match=words) as error:
        data(folder).load(spec())
    assert "\n" not in str(error.value)


def test_settings_that_cannot_be_are_refused() -> None:
    for options, words in (
        ({"unit": -1.0}, "a unit of -1"), ({"fov": 0.0}, "a field of view of 0"),
        ({"reach": 0.0}, "is no overlap"),
    ):
        with pytest.raises(LociError, match=words):
            data(Path("x"), **options)
