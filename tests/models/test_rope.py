"""Rotary positions: of Wan's three axes, and of where a token looks in the world."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.attention.rotary import as_rotary, rotate
from loci.geometry import Camera, relative_to
from loci.models.rope import camera_angles, token_rays, wan_angles
from loci.rules.rule import Coords, Kind
from tiny_world import walk

WIDTH = 32  # of a head
CAMERA = Camera(height=32, width=64, fov=60.0)


def coordinates(frames: list[int], shape: tuple[int, int] = (2, 3)) -> Coords:
    numbers = torch.tensor(frames)
    return Coords.grid(numbers, shape, Kind.CLEAN, numbers, torch.full_like(numbers, -1))


def scores(angles: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Of the same random query against the same random key at every pair of places (S, S)."""
    torch.manual_seed(seed)
    q, k = torch.randn(2, 1, 1, 1, 2 * angles.shape[-1], dtype=torch.float64)
    rotary = torch.polar(torch.ones_like(angles), angles)
    count = angles.shape[-2]
    q, k = q.expand(1, 1, count, -1), k.expand(1, 1, count, -1)
    return (rotate(q, rotary) @ rotate(k, rotary).mT)[0, 0]


def turned(yaw: float, place: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 0] = pose[2, 2] = math.cos(yaw)
    pose[0, 2], pose[2, 0] = math.sin(yaw), -math.sin(yaw)
    pose[:3, 3] = torch.tensor(place, dtype=torch.float64)
    return pose


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_rotation_keeps_norms_and_turns_back(seed):
    torch.manual_seed(seed)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    angles = 10 * torch.randn(2, 5, 4, dtype=torch.float64)
    rotary = torch.polar(torch.ones_like(angles), angles)
    y = rotate(x, rotary)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotate(y, rotary.conj()), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_rotation_turns_each_pair_of_channels(dtype):
    torch.manual_seed(0)
    # As attention has it: heads and tokens transposed, so not in the order of memory.
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64).transpose(1, 2).to(dtype)
    angles = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = torch.empty(x.shape, dtype=torch.float64)
    for pair in range(4):
        cos, sin = angles[:, None, :, pair].cos(), angles[:, None, :, pair].sin()
        a, b = x[..., 2 * pair].double(), x[..., 2 * pair + 1].double()
        expected[..., 2 * pair] = a * cos - b * sin
        expected[..., 2 * pair + 1] = a * sin + b * cos
    rotary = torch.polar(torch.ones_like(angles), angles)
    got = rotate(x, rotary if dtype == torch.float64 else as_rotary(angles))
    assert got.dtype == dtype
    error = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 5e-3}[dtype]
    torch.testing.assert_close(got.double(), expected, atol=error, rtol=error)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=2, max_size=4, unique=True), st.integers(0, 10**6))
def test_wan_scores_depend_on_differences_only(frames, shift):
    coords = coordinates(frames)
    far = scores(wan_angles(coords.shift(shift), WIDTH)[None])
    torch.testing.assert_close(far, scores(wan_angles(coords, WIDTH)[None]), atol=1e-7, rtol=1e-7)


def test_wan_splits_its_channels_as_published():
    """128 = 44 + 42 + 42, each axis with frequencies theta^(-2i/d)."""
    coords = coordinates([7])[torch.tensor([5])]  # row 1, column 2
    angles = wan_angles(coords, 128)[0]
    assert angles.shape == (64,)
    expected = [
        position * 1e4 ** (-2 * i / width)
        for position, width in ((7, 44), (1, 42), (2, 42))
        for i in range(width // 2)
    ]
    torch.testing.assert_close(angles, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("yaw", [0.3, -1.1, 2.9])
def test_a_whole_turn_closes_exactly(yaw):
    """After 360 degrees every token is where it was, whichever way round."""
    rays = token_rays(CAMERA, (2, 3))
    poses = torch.stack([turned(yaw), turned(yaw + 2 * math.pi), turned(yaw - 2 * math.pi)])
    angles = camera_angles(poses[None], rays, WIDTH)[0].unflatten(0, (3, -1))
    for other in angles[1:]:
        torch.testing.assert_close(other.cos(), angles[0].cos(), atol=1e-12, rtol=0)
        torch.testing.assert_close(other.sin(), angles[0].sin(), atol=1e-12, rtol=0)


def test_the_seam_behind_the_camera_is_no_seam():
    """Azimuth jumps from pi to -pi behind the first frame; the scores do not."""
    rays = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    yaws = [math.pi - 1e-6, math.pi + 1e-6]
    angles = camera_angles(torch.stack([turned(y) for y in yaws])[None], rays, WIDTH)
    table = scores(angles)
    torch.testing.assert_close(table[0, 1], table[0, 0], atol=1e-3, rtol=1e-3)


def test_camera_scores_do_not_know_where_the_world_begins():
    """A global yaw and translation of all poses changes no score, once poses are relative."""
    rays, poses = token_rays(CAMERA, (2, 3), gists=2), walk(2, 5)
    moved = turned(1.234, (3.0, -1.0, 2.0)) @ poses
    tables = [
        scores(camera_angles(relative_to(p[:, 0], p), rays, WIDTH)[:1]) for p in (poses, moved)
    ]
    torch.testing.assert_close(tables[0], tables[1], atol=1e-9, rtol=1e-9)


def test_camera_scores_depend_on_differences_only():
    """Angles themselves: any translation drops out, and for a camera that stays, any yaw."""
    rays, poses = token_rays(CAMERA, (2, 3)), walk(1, 4)
    expected = scores(camera_angles(poses, rays, WIDTH))
    away = poses.clone()
    away[..., :3, 3] += torch.tensor([5.0, 1.0, -7.0], dtype=torch.float64)
    torch.testing.assert_close(
        scores(camera_angles(away, rays, WIDTH)), expected, atol=1e-9, rtol=1e-9
    )
    poses[..., :3, 3] = 0
    expected = scores(camera_angles(poses, rays, WIDTH))
    round_ = scores(camera_angles(turned(0.7) @ poses, rays, WIDTH))
    torch.testing.assert_close(round_, expected, atol=1e-9, rtol=1e-9)


def test_tokens_that_look_at_the_same_direction_agree():
    """The left token of one view is the right token of a view turned to the left by its angle."""
    rays = token_rays(Camera(height=32, width=64, fov=60.0), (1, 2))
    angle = 2 * math.atan2(float(rays[1, 0]), float(rays[1, 2]))
    poses = torch.stack([turned(0.4), turned(0.4 - angle)])[None]
    angles = camera_angles(poses, rays, WIDTH)[0]
    torch.testing.assert_close(angles[0], angles[3], atol=1e-12, rtol=1e-12)


def test_rays_look_through_the_patches_and_gists_straight_ahead():
    rows, cols, gists = 2, 4, 3
    rays = token_rays(CAMERA, (rows, cols), gists)
    assert rays.shape == (rows * cols + gists, 3)
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(len(rays), dtype=torch.float64))
    pixels = torch.from_numpy(CAMERA.rays())
    pixels = pixels / pixels[..., 2:]
    patches = pixels.unflatten(0, (rows, -1)).unflatten(2, (cols, -1)).mean(dim=(1, 3))
    grid = (rays / rays[:, 2:])[: rows * cols]
    torch.testing.assert_close(grid, patches.flatten(0, 1), atol=1e-12, rtol=1e-12)
    marks = rays[rows * cols :]
    assert (marks[:, 1] == 0).all()
    assert marks[1, 0] == pytest.approx(0.0)
    assert marks[0, 0] == pytest.approx(-marks[2, 0].item())
    assert (marks[:, 0].diff() > 0).all()
