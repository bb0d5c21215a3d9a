"""Camera poses as Unreal Engine writes them, to ours and back.

Unreal's axes are x forward, y right, z up, a left-handed frame; its unit is the centimetre. A
rotation is three angles in degrees: yaw turns right (seen from above, clockwise), pitch looks up,
roll lowers the right side; roll is applied first, yaw last.
Source: Unreal Engine's `FRotationMatrix` and its coordinate system, as documented.
"""

from __future__ import annotations

import numpy as np

CENTIMETRE = 0.01
# Ours are right, down, forward: y, -z and x of Unreal's. The determinant is -1, which turns its
# left-handed frame into a right-handed one.
AXES = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


def from_unreal(
    positions: np.ndarray, rotations: np.ndarray, unit: float = CENTIMETRE
) -> np.ndarray:
    """Camera-to-world poses (N, 4, 4), OpenCV axes, metres, float64.

    positions (N, 3) in units of `unit` metres; rotations (N, 3): roll, pitch, yaw in degrees. The
    world's axes become OpenCV's too: x to the right, y down, z forward of a camera that is not
    turned.
    """
    roll, pitch, yaw = np.radians(np.asarray(rotations, np.float64)).T
    (sr, cr), (sp, cp), (sy, cy) = ((np.sin(a), np.cos(a)) for a in (roll, pitch, yaw))
    forward = np.stack([cp * cy, cp * sy, sp], axis=-1)
    right = np.stack([sr * sp * cy - cr * sy, sr * sp * sy + cr * cy, -sr * cp], axis=-1)
    up = np.stack([-(cr * sp * cy + sr * sy), sr * cy - cr * sp * sy, cr * cp], axis=-1)
    turned = np.stack([forward, right, up], axis=-1)  # columns: where its axes point
    poses = np.tile(np.eye(4), (len(turned), 1, 1))
    poses[:, :3, :3] = AXES @ turned @ AXES.T
    poses[:, :3, 3] = np.asarray(positions, np.float64) @ AXES.T * unit
    return poses


def to_unreal(poses: np.ndarray, unit: float = CENTIMETRE) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 3) and rotations (N, 3) of camera-to-world poses: `from_unreal` backwards."""
    poses = np.asarray(poses, np.float64)
    turned = AXES.T @ poses[:, :3, :3] @ AXES
    pitch = np.arcsin(np.clip(turned[:, 2, 0], -1.0, 1.0))
    yaw = np.arctan2(turned[:, 1, 0], turned[:, 0, 0])
    roll = np.arctan2(-turned[:, 2, 1], turned[:, 2, 2])
    return poses[:, :3, 3] @ AXES / unit, np.degrees(np.stack([roll, pitch, yaw], axis=-1))
