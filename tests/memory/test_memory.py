"""Memory rows: the registry, and what is retrieved."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.geometry import Camera
from loci.memory import ROWS, Context, Hybrid, Memory, NoMemory, SlidingWindow, row
from loci.memory.overlap import frustum_points, view_overlap
from tiny_world import walk

CAMERA = Camera(height=48, width=64, fov=60.0)
REACH = 4.0


def turned(yaw: float, place=(0.0, 0.0, 0.0), pitch: float = 0.0) -> torch.Tensor:
    """A camera at `place` turned to the right by `yaw` and up by `pitch` degrees."""
    a, b = math.radians(yaw), math.radians(pitch)
    turn = torch.tensor([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    tilt = torch.tensor([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = (turn @ tilt).double()
    pose[:3, 3] = torch.tensor(place, dtype=torch.float64)
    return pose


def overlap(target: torch.Tensor, past: torch.Tensor, reach: float = REACH) -> float:
    return float(view_overlap(target[None, None], past[None, None], CAMERA, reach))


def test_yaw_matters():
    """The same place, turned away: less and less is seen, and from 90 degrees on nothing."""
    here = turned(20)
    scores = [overlap(turned(20 + yaw), here) for yaw in (0, 15, 30, 45, 90, 180)]
    assert scores[0] == 1.0
    assert scores[0] > scores[1] > scores[2] > scores[3] > scores[4]
    assert scores[4] == scores[5] == 0.0
    for yaw in (15, 45):
        left, right = overlap(turned(-yaw), turned(0)), overlap(turned(yaw), turned(0))
        assert left == pytest.approx(right)


def test_pitch_and_place_matter():
    assert 0 < overlap(turned(0, pitch=30), turned(0)) < 1
    assert overlap(turned(0, pitch=90), turned(0)) == 0.0
    aside = [overlap(turned(0, (x, 0, 0)), turned(0)) for x in (0, 0.5, 1, 3, 8)]
    assert aside == sorted(aside, reverse=True)
    assert aside[-1] == 0.0


def test_the_range_is_capped():
    """A camera far behind sees the whole view, but from too far away to count."""
    behind = turned(0, (0, 0, -10.0))
    assert overlap(turned(0), behind, reach=4.0) == 0.0
    assert overlap(turned(0), turned(0, (0, 0, -1.0)), reach=4.0) < 1.0
    assert overlap(turned(0, (0, 0, 1.0)), turned(0), reach=4.0) < 1.0


def naive_overlap(targets: np.ndarray, past: np.ndarray, camera: Camera, reach: float):
    points = frustum_points(camera, reach).numpy()
    half = math.tan(math.radians(camera.fov) / 2)
    table = np.zeros((len(targets), len(past)))
    for t, target in enumerate(targets):
        for n, pose in enumerate(past):
            seen = 0
            for point in points:
                world = target @ np.append(point, 1.0)
                x, y, z, _ = np.linalg.inv(pose) @ world
                inside = abs(x) <= half * z and abs(y) <= half * camera.height / camera.width * z
                seen += 0 < z < reach and inside
            table[t, n] = seen / len(points)
    return table


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_overlap_is_the_share_of_points_in_sight(seed):
    poses = walk(1, 6, seed)
    got = view_overlap(poses[:, 4:], poses[:, :4], CAMERA, REACH)[0]
    expected = naive_overlap(poses[0, 4:].numpy(), poses[0, :4].numpy(), CAMERA, REACH)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 14), st.integers(1, 7), st.integers(0, 10**6))
def test_context_retrieves_the_best_distinct_past_frames(written, frames, seed):
    """The K - 1 with the largest overlap, the later of equals; never the first or the last."""
    memory, poses = Context(frames=frames, reach=REACH), walk(3, written + 2, seed)
    picks = memory.select(poses[:, :written], poses[:, written:], CAMERA)
    if frames == 1:
        assert picks is None
        return
    assert picks is not None
    assert picks.shape == (3, min(frames - 1, max(written - 2, 0)))
    for b in range(3):
        chosen = picks[b].tolist()
        scores = view_overlap(poses[b : b + 1, written:], poses[b : b + 1, :written], CAMERA, REACH)
        # Scores are multiples of one point: rounding makes equal ones equal to the last bit.
        means = [round(scores[0, :, n].mean().item(), 9) for n in range(written)]
        ranked = sorted(range(1, written - 1), key=lambda n: (means[n], n), reverse=True)
        assert sorted(chosen) == sorted(ranked[: len(chosen)])
        assert len(set(chosen)) == len(chosen)
        assert not {0, written - 1} & set(chosen)


def test_retrieval_follows_the_view():
    """Asked for the right, it brings the frames that looked to the right."""
    past = torch.stack([turned(yaw) for yaw in (0, 0, 90, 90, 180, 180, 0)])[None]
    memory = Context(frames=3)
    for yaw, wanted in ((90, {2, 3}), (180, {4, 5})):
        picks = memory.select(past, turned(yaw)[None, None], CAMERA)
        assert picks is not None
        assert set(picks[0].tolist()) == wanted


@pytest.mark.parametrize("name", sorted(ROWS))
def test_rows_round_trip_through_json(name):
    memory = ROWS[name]
    text = memory.to_json()
    again = Memory.from_json(text)
    assert again == memory == row(name)
    assert again.hash() == memory.hash()
    assert json.loads(text)["type"] == memory.type_name


def test_rows_differ_and_say_what_they_are():
    assert len({memory.hash() for memory in ROWS.values()}) == len(ROWS)
    assert [ROWS[n].retrieves for n in ("none", "context-1", "context-5", "context-20")] == [
        0, 0, 4, 19,
    ]
    assert ROWS["hybrid"].gists > 0
    assert NoMemory().select(walk(1, 3), walk(1, 1), CAMERA) is None
    with pytest.raises(NotImplementedError, match="define rule"):
        Memory().rule()


def test_mistakes_name_the_nearest():
    with pytest.raises(LociError, match="memory row 'context20'; did you mean 'context-20'"):
        row("context20")
    with pytest.raises(LociError, match="unknown Memory 'hybird'; did you mean 'hybrid'"):
        Memory.from_dict({"type": "hybird"})
    with pytest.raises(LociError, match="did you mean 'window'"):
        Memory.from_dict({"type": "hybrid", "windows": 3})
    for wrong in (
        lambda: Context(frames=0), lambda: Context(reach=0.0), lambda: Hybrid(window=0),
        lambda: Hybrid(anchors=-1), lambda: Hybrid(gists_per_frame=-1),
        lambda: SlidingWindow(window=0),
    ):
        with pytest.raises(LociError) as error:
            wrong()
        assert "\n" not in str(error.value)
