"""Labels of overlap: they know where cameras look, are made once, and go on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loci.data import overlap_labels
from loci.data.context_as_memory import CamScene
from loci.data.overlap_labels import (
    OverlapRule,
    missing_labels,
    most_shown,
    overlapping,
    read_label,
    write_labels,
)
from loci.errors import LociError
from loci.geometry import Camera
from loci.geometry.unreal import from_unreal

CAMERA = Camera(height=360, width=640, fov=52.67)


def turned(yaws: list[float]) -> np.ndarray:
    """Cameras at one place."""
    angles = np.array([[0.0, 0.0, yaw] for yaw in yaws])
    return from_unreal(np.zeros((len(yaws), 3)), angles)


def test_who_looks_elsewhere_sees_something_else() -> None:
    """The published score is the same at 0, 45, 90 and 180 degrees of yaw."""
    poses = turned([0, 0, 20, 45, 90, 180, -20])
    rule = OverlapRule(share=0.3)
    assert overlapping(poses, [0], CAMERA, rule) == [[1, 2, 6]]
    assert overlapping(poses, [5], CAMERA, rule) == [[]]
    # Of a view, what lies 45 degrees aside is a narrow strip.
    assert 3 in overlapping(poses, [0], CAMERA, OverlapRule(share=0.01))[0]


def test_what_is_behind_or_far_away_is_not_seen() -> None:
    where = np.array([[0.0, 0, 0], [20, 0, 0], [-1000, 0, 0], [0, 0, 0]])
    poses = from_unreal(where, np.array([[0.0, 0, 0]] * 3 + [[0, 60, 0]]))
    assert overlapping(poses, [0], CAMERA, OverlapRule(reach=4.0)) == [[1]]
    assert overlapping(poses, [0], CAMERA, OverlapRule(reach=40.0)) == [[1, 2]]


def test_labels_are_those_of_the_poses_and_missing_ones_are_made(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = CamScene(tiny_copy, "room_0000")
    folder, rule = tiny_copy / "overlap_labels" / "room_0000", OverlapRule()
    monkeypatch.setattr(overlap_labels, "AT_ONCE", 1)  # a frame at a time
    wanted = overlapping(scene.poses, range(33), scene.camera, rule)
    assert [read_label(folder, n) for n in range(33)] == wanted
    assert json.loads((folder / "5.json").read_text()) == {
        "frame_index": 5, "overlapping_frames": [str(n) for n in wanted[5]],
    }
    before = {n: (folder / f"{n}.json").stat().st_mtime_ns for n in range(33) if n not in (4, 9)}
    for n in (4, 9):
        (folder / f"{n}.json").unlink()
    assert write_labels([missing_labels(folder, scene.poses, scene.camera)], rule, 1) == 2
    assert [read_label(folder, n) for n in range(33)] == wanted
    assert {n: (folder / f"{n}.json").stat().st_mtime_ns for n in before} == before
    assert write_labels([missing_labels(folder, scene.poses, scene.camera)], rule, 1) == 0


@pytest.mark.slow
def test_processes_make_the_same_labels(tiny_copy: Path) -> None:
    made = []
    for workers in (1, 2):
        shutil.rmtree(tiny_copy / "overlap_labels")
        work = []
        for name in ("room_0000", "room_0001"):
            scene = CamScene(tiny_copy, name)
            work.append(missing_labels(
                tiny_copy / "overlap_labels" / name, scene.poses, scene.camera))
        write_labels(work, OverlapRule(), workers)
        made.append({str(f): f.read_bytes() for f in tiny_copy.glob("overlap_labels/*/*")})
    assert made[0] == made[1]
    assert len(made[0]) == 66


@pytest.mark.parametrize(("text", "words"), [
    ("{", "is damaged"), ('{"frame_index": 3, "overlapping_frames": []}', "it is of frame 3"),
    ('{"frame_index": 4, "overlapping_frames": ["x"]}', "invalid literal"),
    ('{"frame_index": 4, "overlapping_frames": ["-1"]}', "is damaged"),
])
def test_a_damaged_label_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "4.json").write_text(text)
    with pytest.raises(LociError, match=words):
        read_label(tmp_path, 4)


def test_a_rule_that_is_none_is_refused() -> None:
    for options in ({"reach": 0.0}, {"share": 0.0}, {"share": 1.1}):
        with pytest.raises(LociError, match="is no overlap"):
            OverlapRule(**options)


def test_frames_are_taken_that_show_together_most() -> None:
    labels = [[1, 2, 9], [1, 2], [3], [2, 12]]
    assert most_shown(labels, 10, 2) == [2, 3]
    assert most_shown(labels, 10, 3) == [1, 2, 3]
    assert most_shown(labels, 10, 9) == [1, 2, 3, 9]
    assert most_shown(labels, 1, 2) == []


@given(
    st.lists(st.sets(st.integers(0, 30), max_size=9), min_size=1, max_size=5),
    st.integers(0, 31), st.integers(0, 12),
)
def test_a_past_is_past(labels: list[set[int]], before: int, count: int) -> None:
    found = most_shown(labels, before, count)
    possible = {frame for label in labels for frame in label if frame < before}
    assert found == sorted(set(found))
    assert set(found) <= possible
    assert len(found) == min(count, len(possible))
