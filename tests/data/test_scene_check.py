"""`loci data check` and `stats` of scenes: every damage has its line, a whole folder none, and
nothing is changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loci.commands import main as cli
from loci.data.context_as_memory import CamScene, ContextAsMemoryData
from loci.data.layouts import layout_of, scenes_in
from loci.data.scene_check import check_scenes
from loci.data.scene_stats import scene_stats
from loci.data.turn_check import side_votes, turning_pairs
from loci.errors import LociError
from loci.geometry.depth import intrinsics_of
from loci.io.video import encode
from loci.worlds.rooms.room import sample_room
from tiny_set import TINY

POSES = "jsons/room_0000.json"


def fingerprint(folder: Path) -> dict[str, str]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def ending(*arguments: object) -> int:
    try:
        cli.main(["data", *map(str, arguments)])
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    return 0


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_folder_has_nothing_broken(tiny_set: Path, quick: bool) -> None:
    before = fingerprint(tiny_set)
    report = check_scenes(scenes_in(tiny_set, {}), quick)
    assert report.broken == []
    assert report.scenes == {"room_0000": 33, "room_0001": 33}
    assert report.lines()[0].endswith("tiny: context-as-memory, 2 scenes, 66 frames")
    assert report.lines()[-1] == "whole: every scene can be read"
    assert fingerprint(tiny_set) == before


def poses(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        numbers = json.loads((folder / POSES).read_text())
        change(numbers["CineCameraActor"])
        (folder / POSES).write_text(json.dumps(numbers))
    return damage


def scaled(by: float) -> Callable[[Path], None]:
    def change(frames: dict[str, Any]) -> None:
        for pose in frames.values():
            pose["position"] = [by * x for x in pose["position"]]
    return poses(change)


def mirrored(frames: dict[str, Any]) -> None:
    for pose in frames.values():
        pose["rotation"][2] *= -1


def picture(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda folder: change(folder / "frames" / "room_0000" / "0003.png")


def line(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


@pytest.mark.parametrize(("damage", "words"), [
    (picture(Path.unlink), ["room_0000: 32 pictures and 33 poses",
                            "1 pictures are missing, first"]),
    (picture(lambda f: f.write_bytes(f.read_bytes()[:120])), ["0003.png is not a picture that"]),
    (picture(lambda f: Image.new("RGB", (16, 32)).save(f)), ["0003.png is 32x16, 0000.png is 32"]),
    (poses(lambda f: f.pop("32")), ["room_0000: 33 pictures and 32 poses",
                                    "labels name frames behind the last, first"]),
    (poses(lambda f: f.pop("9")), ["has 32 poses and none of frame 9"]),
    (poses(lambda f: f["9"].update(rotation=[0, float("nan"), 0])), ["the pose of frame 9 is not"]),
    (scaled(100), ["room_0000: the camera moves 15 m from frame to frame with 0.01 m a unit"]),
    (scaled(0.01), ["room_0000: the camera stays within 0.0"]),
    (poses(mirrored), ["turns show in the pictures to the other side than the poses say"]),
    (lambda f: (f / POSES).write_text("{"), ["cannot read poses"]),
    (lambda f: (f / POSES).unlink(), ["room_0000 has pictures, and no file of poses",
                                      "captions.txt has clips of room_0000, which has no poses"]),
    (lambda f: (f / "overlap_labels/room_0000/4.json").write_text("{"), ["4.json is damaged"]),
    (line("captions.txt", "room_0000/0_40.mp4\tx\n"), ["room_0000/0_40 ends behind the 33 frames"]),
    (line("captions.txt", "room_0000\tx\n"), ["captions.txt, line 5, names no clip 'room_0000'"]),
    (lambda f: (f / "metadata_full.csv").write_text("a,b\n"), ["has no column 'end_frame'"]),
])
def test_every_damage_has_its_line(
    tiny_copy: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], Any],
    words: list[str],
) -> None:
    damage(tiny_copy)
    before = fingerprint(tiny_copy)
    assert ending("check", tiny_copy) == 1
    assert fingerprint(tiny_copy) == before
    broken = [text for text in capsys.readouterr().out.splitlines() if text.startswith("broken: ")]
    for word in words:
        assert any(word in text for text in broken), broken
    assert len(broken) <= 3


@pytest.mark.slow
def test_processes_find_the_same(tiny_copy: Path) -> None:
    picture(lambda f: f.write_bytes(f.read_bytes()[:120]))(tiny_copy)
    one, two = (check_scenes(scenes_in(tiny_copy, {}), workers=n) for n in (1, 2))
    assert one.to_dict() == two.to_dict()
    assert one.broken


def test_what_is_merely_missing_is_a_note(tiny_copy: Path) -> None:
    (tiny_copy / "captions.txt").unlink()
    (tiny_copy / "overlap_labels" / "room_0001" / "7.json").unlink()
    report = check_scenes(scenes_in(tiny_copy, {}))
    assert report.broken == []
    assert any("1 of 33 frames have no overlap label; loci data label" in n for n in report.notes)
    assert "captions.txt is missing" in report.notes
    assert ending("label", tiny_copy) == 0
    assert (tiny_copy / "overlap_labels" / "room_0001" / "7.json").exists()


def test_another_unit_is_told(tiny_copy: Path, tmp_path: Path) -> None:
    scaled(0.01)(tiny_copy)
    other = tiny_copy / "jsons" / "room_0001.json"
    other.write_text((tiny_copy / POSES).read_text())
    (tmp_path / "unit.json").write_text('{"unit": 1.0}')
    assert ending("check", tiny_copy, "--quick") == 1
    assert ending("check", tiny_copy, "--quick", "--config", tmp_path / "unit.json") == 0
    (tmp_path / "unit.json").write_text('{"units": 1.0}')
    assert ending("check", tiny_copy, "--quick", "--config", tmp_path / "unit.json") == 2


def test_pictures_say_which_way_a_camera_turns(tiny_set: Path) -> None:
    scene = CamScene(tiny_set, "room_0000")
    pairs = turning_pairs(scene.poses)
    seen = list(scene.pictures(range(33)))
    right, wrong = side_votes(pairs, seen.__getitem__, scene.intrinsics[0, 0])
    assert right > 10 * wrong
    assert side_votes([(a, b, -angle) for a, b, angle in pairs], seen.__getitem__,
                      scene.intrinsics[0, 0]) == (wrong, right)
    still = np.zeros((32, 32, 3), np.uint8)
    assert side_votes(pairs, lambda _: still, scene.intrinsics[0, 0]) == (0, 0)


def test_numbers_of_a_folder(tiny_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = scene_stats(scenes_in(tiny_set, {}))
    assert (found["scenes"], found["frames"], found["captions"]) == (2, 66, 4)
    walked = [CamScene(tiny_set, name).poses[:, :3, 3] for name in ("room_0000", "room_0001")]
    metres = sum(np.linalg.norm(np.diff(w, axis=0), axis=1).sum() for w in walked)
    assert found["metres"] == pytest.approx(metres)
    assert found["degrees_a_frame"]["max"] == pytest.approx(11.25)
    assert found["seen_again"] == 0  # shorter than what counts as later
    assert ending("stats", tiny_set) == 0
    assert "2 scenes, 66 frames (33 to 33 a scene)" in capsys.readouterr().out
    assert ending("stats", tiny_set, "--json") == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 66


def test_what_comes_again_is_counted(tmp_path: Path) -> None:
    (tmp_path / "jsons").mkdir()
    (tmp_path / "overlap_labels" / "a").mkdir(parents=True)
    still = {"position": [0, 0, 0], "rotation": [0, 0, 0]}
    frames = {"CineCameraActor": {str(n): still for n in range(100)}}
    (tmp_path / "jsons" / "a.json").write_text(json.dumps(frames))
    for n, others in ((90, [9, 91]), (91, [11]), (92, []), (5, [99])):
        label = {"frame_index": n, "overlapping_frames": [str(x) for x in others]}
        (tmp_path / "overlap_labels" / "a" / f"{n}.json").write_text(json.dumps(label))
    assert scene_stats(scenes_in(tmp_path, {}))["seen_again"] == 1 / 4


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder, where = tmp_path / "videos", TINY.poses(0)[:17]
    folder.mkdir()
    rgb = sample_room(0, "train").render(where, TINY.camera).rgb
    (folder / "a.mp4").write_bytes(encode(rgb, 10))
    (folder / "a.json").write_text(json.dumps({
        "poses": where.tolist(), "intrinsics": intrinsics_of(TINY.camera).tolist(),
    }))
    return folder


def test_videos_are_checked_too(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprint(videos)
    assert ending("check", videos) == 0
    assert "videos: videos, 1 scenes, 17 frames" in capsys.readouterr().out
    assert ending("stats", videos) == 0
    assert fingerprint(videos) == before
    numbers = json.loads((videos / "a.json").read_text())
    where = np.array(numbers["poses"])
    far = where.copy()
    far[:, :3, 3] *= 100
    for change, words in (
        ({"poses": where[:9].tolist()}, "has 17 frames and 9 poses"),
        ({"poses": (2 * where).tolist()}, r"a: the pose of frame 0 .* is no rigid"),
        ({"poses": far.tolist()}, r"a: the camera moves 15 m"),
        ({"intrinsics": np.diag([0.9, 0.9, 1]).tolist()}, r"a focal length of 0\.9 in a picture"),
        ({"intrinsics": None}, "and no fov is given"),
        ({"poses": (where @ np.diag([-1, -1, 1, 1])).tolist()}, r"a: \d+ of \d+ turns show"),
    ):
        (videos / "a.json").write_text(json.dumps(numbers | change))
        assert ending("check", videos) == 1, words
        assert re.search(words, capsys.readouterr().out), words
    (videos / "a.json").write_text(json.dumps(numbers))
    (videos / "a.mp4").write_bytes((videos / "a.mp4").read_bytes()[:-900])
    assert ending("check", videos) == 1


def test_a_folder_is_what_its_files_say(tiny_set: Path, tmp_path: Path) -> None:
    assert layout_of(tiny_set) == "context-as-memory"
    assert layout_of(tmp_path) == "lerobot"  # whose reader says what is missing
    assert ending("check", tmp_path) == 2
    (tmp_path / "a.mp4").write_text("")
    assert layout_of(tmp_path) == "videos"
    assert isinstance(scenes_in(tiny_set, {"unit": 1.0}), ContextAsMemoryData)
    with pytest.raises(LociError, match=r"unknown key 'units'.*did you mean 'unit'"):
        scenes_in(tiny_set, {"units": 1.0})


def test_a_set_is_made_checked_and_made_larger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--length", 9, "--size", 16]
    assert ending("make-tiny", tmp_path / "t", "--scenes", 1, *options) == 0
    assert "1 scenes of 9 pictures; loci data check" in capsys.readouterr().out
    assert ending("check", tmp_path / "t") == 0
    assert ending("make-tiny", tmp_path / "t", "--length", 13) == 2
    assert "other settings" in capsys.readouterr().err
