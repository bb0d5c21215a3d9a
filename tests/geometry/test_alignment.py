"""Predictions of a clip come back as one geometry, frame by frame and without a look ahead."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxes import CUBE, pose_of, view
from loci.errors import LociError
from loci.geometry import Camera
from loci.geometry.alignment import Alignment, Predicted

CAMERA = Camera(height=36, width=48, fov=70.0)
TURNS = torch.stack([pose_of(15.0 * n) for n in range(8)])
WALK = torch.stack([pose_of(12.0 * n, (0.08 * n, 0.0, 0.05 * n)) for n in range(12)])


def seen(poses: Tensor, cube: Tensor | None = CUBE) -> tuple[Tensor, Tensor]:
    """True depth (T, H, W) of the box room, and intrinsics."""
    views = [view(pose, n, cube, CAMERA) for n, pose in enumerate(poses)]
    return torch.stack([v.depth for v in views]), torch.stack([v.intrinsics for v in views])


def distorted(depth: Tensor, seed: int, first_shift: float = 0.0) -> Predicted:
    """Inverse depth with another scale and shift in each frame."""
    draw = random.Random(seed)
    scales = [draw.uniform(0.3, 3.0) for _ in depth]
    shifts = [first_shift, *(draw.uniform(-0.1, 0.5) for _ in depth[1:])]
    return Predicted(torch.stack([
        scale * (1 / one.double() + shift)
        for one, scale, shift in zip(depth, scales, shifts, strict=True)
    ]), metric=False)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), walks=st.booleans())
def test_distorted_inverse_depth_comes_back_up_to_one_scale(seed: int, walks: bool) -> None:
    poses = WALK if walks else TURNS
    depth, matrix = seen(poses)
    # Who only turns may call the first frame's median 1; who walks has to know it in metres.
    median = float(depth[0].median()) if walks else None
    found, _ = Alignment(median=median).align(distorted(depth, seed), poses, matrix)
    ratio = found / depth
    assert ratio[0].median() == pytest.approx(1.0 if walks else 1 / float(depth[0].median()))
    assert (ratio / ratio[0].median() - 1).abs().max() < 1e-4


def test_known_depth_of_a_few_pixels_gives_the_first_frames_shift_too() -> None:
    depth, matrix = seen(WALK)
    predicted = distorted(depth, 3, first_shift=0.4)
    few = torch.zeros_like(depth[0])
    few[::7, ::7] = depth[0, ::7, ::7]
    few[14, 14] = 9.0  # one of them is wrong
    found, _ = Alignment().align(predicted, WALK, matrix, known=few)
    assert (found / depth - 1).abs().max() < 1e-4


def test_a_stream_gives_what_the_clip_gives() -> None:
    depth, matrix = seen(WALK)
    predicted = distorted(depth, 1)
    whole, _ = Alignment(median=2.0).align(predicted, WALK, matrix)
    state, found = None, []
    for at in (0, 1, 4, 5):
        part = slice(at, {0: 1, 1: 4, 4: 5, 5: None}[at])
        one, state = Alignment(median=2.0).align(
            Predicted(predicted.values[part], False), WALK[part], matrix[part], state
        )
        found.append(one)
    assert torch.equal(torch.cat(found), whole)


def test_metric_depth_is_aligned_by_scale_alone() -> None:
    depth, matrix = seen(WALK)
    scales = torch.tensor([1.0, *(random.Random(0).uniform(0.5, 2.0) for _ in depth[1:])])
    found, _ = Alignment().align(Predicted(depth * scales[:, None, None], True), WALK, matrix)
    assert (found / depth - 1).abs().max() < 1e-4
    # Shifts are not taken out: a model that errs by them is no metric one.
    off, _ = Alignment().align(Predicted(depth + 0.5, True), WALK, matrix)
    assert (off[0] - depth[0] - 0.5).abs().max() < 1e-5


def test_turning_and_standing_still_leave_the_scale_alone() -> None:
    for poses in (TURNS, TURNS[:1].repeat(8, 1, 1)):
        depth, matrix = seen(poses)
        found, state = Alignment().align(Predicted(1 / depth, False), poses, matrix)
        assert state.scale == pytest.approx(float(depth[0].median()), rel=1e-4)
        assert found[0].median() == pytest.approx(1.0, rel=1e-5)
        assert ((found / depth) / (found / depth)[0, 0, 0] - 1).abs().max() < 1e-4


def test_noise_and_hidden_points_do_not_carry_the_scale_away() -> None:
    """A cube hides much of the wall behind it, a tenth of the predictions are wild."""
    poses = torch.stack([pose_of(9.0 * n - 40, (0.1 * n - 0.4, 0.0, 0.0)) for n in range(10)])
    depth, matrix = seen(poses)
    draw = torch.Generator().manual_seed(0)
    values = distorted(depth, 5).values
    wild = torch.rand(values.shape, generator=draw) < 0.1
    values = values * (1 + 0.01 * torch.randn(values.shape, generator=draw).double())
    values = torch.where(wild, 3 * torch.rand(values.shape, generator=draw).double(), values)
    found, _ = Alignment(median=float(depth[0].median())).align(
        Predicted(values.clamp(min=1e-3), False), poses, matrix
    )
    ratio = (found / depth)[~wild].view(-1)
    assert (ratio.log().abs()).median() < 0.02
    per_frame = torch.stack([(f / d).median() for f, d in zip(found, depth, strict=True)])
    assert (per_frame - 1).abs().max() < 0.05


def test_a_wall_ahead_says_nothing_of_a_shift() -> None:
    """Of a wall, a scale can be told; the shift stays, and the room behind is what it was."""
    poses = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    depth = torch.full((4, 36, 48), 2.0)
    _, matrix = seen(poses)
    scales = torch.tensor([1.0, 0.5, 3.0, 1.0])[:, None, None]
    found, _ = Alignment(median=2.0).align(Predicted(scales / depth, False), poses, matrix)
    assert torch.allclose(found, depth, rtol=1e-5)


def test_a_place_never_seen_keeps_the_last_scale() -> None:
    poses = torch.stack([pose_of(0.0), pose_of(180.0)])
    depth, matrix = seen(poses, None)
    found, state = Alignment(median=float(depth[0].median())).align(
        Predicted(3 / depth, False), poses, matrix
    )
    assert torch.allclose(found, depth, rtol=1e-5)
    assert len(state.points) == 2


def test_key_frames_are_few_and_the_first_one_stays() -> None:
    poses = torch.stack([pose_of(20.0 * n) for n in range(40)])
    depth, matrix = seen(poses)
    found, state = Alignment(median=float(depth[0].median()), keep=4).align(
        distorted(depth, 2), poses, matrix
    )
    first, _ = Alignment(median=float(depth[0].median()), keep=4).align(
        Predicted(distorted(depth, 2).values[:1], False), poses[:1], matrix[:1]
    )
    assert len(state.points) == 4
    assert torch.equal(found[0], first[0])
    assert state.points[0][..., 2].max() == pytest.approx(float(depth[0].max()), rel=1e-5)
    assert (found / depth - 1).abs().max() < 1e-3


def test_what_is_unknown_stays_unknown() -> None:
    depth, matrix = seen(WALK)
    values = 1 / depth
    values[:, :10] = 0  # the sky
    found, _ = Alignment().align(Predicted(values, False), WALK, matrix)
    assert not found[:, :10].any()
    assert (found[:, 10:] > 0).all()
    values[0, 20, 20] = 1e-9  # and what is as good as that
    assert Alignment().align(Predicted(values, False), WALK, matrix)[0][0, 20, 20] == 0


def spoilt(value: float, frame: int = 2) -> Any:
    def change(values: Tensor) -> None:
        if value == 0:
            values[frame] = 0
        else:
            values[frame, 3, 3] = value
    return change


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "predicts NaN or infinity for frame 2"),
        (float("inf"), "predicts NaN or infinity for frame 2"),
        (-1.0, "predicts negative numbers for frame 2"),
        (0.0, "predicts nothing but zeros for frame 2"),
    ],
)
@pytest.mark.parametrize("metric", [True, False])
def test_predictions_that_are_none(value: float, words: str, metric: bool) -> None:
    depth, matrix = seen(TURNS)
    spoilt(value)(depth)
    with pytest.raises(LociError, match=words) as caught:
        Alignment().align(Predicted(depth, metric), TURNS, matrix)
    assert "\n" not in str(caught.value)


def test_arguments_that_are_none() -> None:
    depth, matrix = seen(TURNS)
    predicted = Predicted(1 / depth, False)
    with pytest.raises(LociError, match="poses of shape"):
        Alignment().align(predicted, TURNS[:2], matrix)
    with pytest.raises(LociError, match="intrinsics of shape"):
        Alignment().align(predicted, TURNS, matrix[:2])
    with pytest.raises(LociError, match="known depth of shape"):
        Alignment().align(predicted, TURNS, matrix, known=torch.ones(3, 3))
    few = torch.zeros(36, 48)
    few[0, 0] = 1
    with pytest.raises(LociError, match="known and predicted in 1 pixels"):
        Alignment().align(predicted, TURNS, matrix, known=few)
    _, state = Alignment().align(predicted, TURNS, matrix)
    with pytest.raises(LociError, match="known depth belongs to the first frame"):
        Alignment().align(predicted, TURNS, matrix, state, known=depth[0])
    with pytest.raises(LociError, match="a median depth of -1"):
        Alignment(median=-1.0)
    with pytest.raises(LociError, match="keep 2 or more"):
        Alignment(keep=1)
