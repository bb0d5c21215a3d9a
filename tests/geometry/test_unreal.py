"""Poses of Unreal Engine: sides, signs, order of the angles, one unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loci.geometry.unreal import from_unreal, to_unreal


def looks(*angles: float) -> np.ndarray:
    """Where a camera that is turned by roll, pitch, yaw looks, and where its right side is."""
    return from_unreal(np.zeros((1, 3)), np.array([angles]))[0, :3, :3]


@pytest.mark.parametrize(("angles", "axis", "where"), [
    ((0, 0, 0), 2, (0, 0, 1)),    # forward is forward
    ((0, 0, 90), 2, (1, 0, 0)),   # yaw turns right, and right is +x
    ((0, 0, -90), 2, (-1, 0, 0)),
    ((0, 90, 0), 2, (0, -1, 0)),  # pitch looks up, and up is -y
    ((90, 0, 0), 0, (0, 1, 0)),   # roll lowers the right side
    ((90, 0, 90), 0, (0, 1, 0)),  # yaw comes last: about the vertical, whatever the roll
])
def test_angles_turn_to_the_side_that_unreal_says(
    angles: tuple[float, ...], axis: int, where: tuple[float, ...]
) -> None:
    np.testing.assert_allclose(looks(*angles)[:, axis], where, atol=1e-12)


def test_a_position_is_centimetres_forward_right_and_up_and_is_scaled_once() -> None:
    poses = from_unreal(np.array([[300.0, 20.0, 150.0]]), np.zeros((1, 3)))
    np.testing.assert_allclose(poses[0, :3, 3], [0.2, -1.5, 3.0])
    poses = from_unreal(np.array([[3.0, 0.2, 1.5]]), np.zeros((1, 3)), unit=1.0)
    np.testing.assert_allclose(poses[0, :3, 3], [0.2, -1.5, 3.0])


ANGLES = st.tuples(st.floats(-179, 179), st.floats(-89, 89), st.floats(-179, 179))


@given(st.lists(st.tuples(ANGLES, st.tuples(*[st.floats(-1e4, 1e4)] * 3)), min_size=1, max_size=4))
def test_poses_are_rigid_and_come_back(
    drawn: list[tuple[tuple[float, ...], tuple[float, ...]]]
) -> None:
    rotations, positions = (np.array(part) for part in zip(*drawn, strict=True))
    poses = from_unreal(positions, rotations)
    turn = poses[:, :3, :3]
    np.testing.assert_allclose(turn @ turn.mT, np.broadcast_to(np.eye(3), turn.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turn), 1.0)
    where, angles = to_unreal(poses)
    np.testing.assert_allclose(where, positions, atol=1e-7)
    np.testing.assert_allclose(angles, rotations, atol=1e-6)
