"""Imperfect geometry: of stated size, the same for the same key, and still geometry."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxes import pose_of
from loci.errors import LociError
from loci.geometry import checked_poses
from loci.geometry.depth import check_depth
from loci.geometry.imperfect import IMPERFECT, Imperfect


def clip(frames: int = 6, height: int = 8, width: int = 10) -> tuple[Tensor, Tensor]:
    """Depth with an unknown corner, and poses that turn and walk."""
    depth = 1.0 + torch.rand(frames, height, width, generator=torch.Generator().manual_seed(0))
    depth[:, 0, :3] = 0
    poses = [pose_of(11.0 * n, (0.1 * n, 0.0, 0.05 * n)) for n in range(frames)]
    return depth, torch.stack(poses)


def angles(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between rotations."""
    turn = a[..., :3, :3].mT @ b[..., :3, :3]
    off = torch.linalg.matrix_norm(turn - torch.eye(3).double())
    return torch.rad2deg(2 * torch.asin(off / math.sqrt(8)))


def test_without_errors_everything_comes_back_bit_for_bit() -> None:
    depth, poses = clip()
    same_depth, same_poses = Imperfect().apply(depth, poses.float(), "a")
    assert torch.equal(same_depth, depth)
    assert torch.equal(same_poses, poses.float())
    # Errors of one kind leave the other alone.
    assert torch.equal(IMPERFECT["depth"].apply(depth, poses, "a")[1], poses)
    assert torch.equal(IMPERFECT["poses"].apply(depth, poses, "a")[0], depth)


SIZES = st.floats(0, 0.5)


@settings(max_examples=25, deadline=None)
@given(
    level=st.builds(
        Imperfect, pixel=SIZES, scale=SIZES, missing=st.floats(0, 0.99), walk=SIZES,
        trend=st.floats(-3, 3), metres=SIZES, degrees=st.floats(0, 90), metres_walk=SIZES,
        degrees_walk=st.floats(0, 90), seed=st.integers(0, 9),
    ),
    frames=st.integers(1, 6),
)
def test_what_comes_back_is_geometry(level: Imperfect, frames: int) -> None:
    depth, poses = clip()
    off, astray = level.apply(depth, poses, "a")
    check_depth(off)
    checked_poses(astray, (len(depth),))
    assert torch.equal(astray[0], poses[0])
    assert off.dtype == depth.dtype
    assert (off[depth == 0] == 0).all()
    # A clip's beginning does not depend on its end; another key is another draw.
    begun = level.apply(depth[:frames], poses[:frames], "a")
    assert torch.equal(begun[0], off[:frames])
    assert torch.equal(begun[1], astray[:frames])
    if level.metres:
        assert not torch.equal(level.apply(depth, poses, "b")[1], astray)


def test_errors_are_of_the_size_that_is_stated() -> None:
    depth = torch.full((400, 4, 6), 2.0)
    poses = torch.eye(4, dtype=torch.float64).repeat(400, 1, 1)
    off, astray = IMPERFECT["stated"].apply(depth, poses, "a")
    scales = (off / depth).log()
    assert scales.flatten(1).std(1).max() < 1e-6
    assert scales[:, 0, 0].std() == pytest.approx(0.05, rel=0.15)
    assert astray[1:, :3, 3].std() == pytest.approx(0.02, rel=0.15)
    assert angles(poses, astray)[1:].square().mean().sqrt() == pytest.approx(1.0, rel=0.15)
    pixels = Imperfect(pixel=0.03, missing=0.25).apply(depth, poses, "a")[0]
    assert (pixels == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert (pixels[pixels > 0] / 2).log().std() == pytest.approx(0.03, rel=0.1)


def test_drift_grows_with_the_root_of_the_frames_and_a_trend_steadily() -> None:
    depth = torch.ones(49, 2, 2)
    poses = torch.eye(4, dtype=torch.float64).repeat(49, 1, 1)
    level = Imperfect(walk=0.01, metres_walk=0.01, degrees_walk=0.1)
    drawn = [level.apply(depth, poses, str(n)) for n in range(30)]
    scales = torch.stack([off[:, 0, 0].log() for off, _ in drawn])
    places = torch.stack([astray[:, :3, 3] for _, astray in drawn])
    for frame in (12, 48):
        grown = 0.01 * math.sqrt(frame)
        assert scales[:, frame].std() == pytest.approx(grown, rel=0.25)
        assert places[:, frame].std() == pytest.approx(grown, rel=0.25)
    steady = Imperfect(trend=-0.01).apply(depth, poses, "a")[0][:, 0, 0].log()
    assert torch.allclose(steady, -0.01 * torch.arange(49), atol=1e-5)
    endless = Imperfect(trend=5.0).apply(depth, poses, "a")[0]
    assert endless.max() == pytest.approx(100.0, rel=1e-5)


def test_a_wrong_heading_leads_places_astray() -> None:
    """As in odometry: who walks straight on with a wrong heading ends up beside the path."""
    poses = torch.stack([pose_of(0.0, (0.0, 0.0, 0.2 * n)) for n in range(101)])
    depth = torch.ones(101, 2, 2)
    off = [
        (Imperfect(degrees_walk=0.5).apply(depth, poses, str(n))[1] - poses)[:, :3, 3].norm(dim=-1)
        for n in range(8)
    ]
    ends = torch.stack(off).mean(0)
    assert ends[100] > 4 * ends[25]


def test_unknown_frames_and_last_pixels() -> None:
    depth, poses = clip()
    depth[2] = 0
    depth[3] = 0
    depth[3, 4, 5] = 2.0
    off, _ = replace(IMPERFECT["strong"], missing=0.999).apply(depth, poses, "a")
    assert not off[2].any()
    assert off[3].nonzero().tolist() == [[4, 5]]
    assert (off.flatten(1) > 0).any(1).tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixel": -0.1}, "pixel is -0.1; give 0 or more"),
        ({"walk": float("nan")}, "walk is nan"),
        ({"missing": 1.0}, "give a share below 1"),
    ],
)
def test_settings_that_are_none(change: dict[str, float], words: str) -> None:
    with pytest.raises(LociError, match=words):
        Imperfect(**change)


def test_inputs_that_are_none() -> None:
    depth, poses = clip()
    level = IMPERFECT["stated"]
    with pytest.raises(LociError, match="negative depth"):
        level.apply(-depth, poses, "a")
    with pytest.raises(LociError, match="poses of shape"):
        level.apply(depth, poses[:3], "a")
    assert Imperfect.from_json(level.to_json()) == level
