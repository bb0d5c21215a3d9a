"""Whether pictures turn to the side that their poses say: the pictures decide.

When a camera turns right, what it sees moves left. A dataset whose yaw is mirrored (a left-handed
frame that is read as a right-handed one) trains without an error, and its model turns the wrong
way. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

BANDS = 8  # of rows, whose columns are compared
LEAST, MOST = 2.0, 12.0  # degrees between two pictures that are compared
PAIRS = 24


def turning_pairs(poses: np.ndarray, apart: int = 1) -> list[tuple[int, int, float]]:
    """Pairs of frames (i, i + apart) between which the camera turns right by `angle` degrees (left
    where it is below 0) and hardly tilts; evenly spread over the scene."""
    relative = poses[:-apart, :3, :3].transpose(0, 2, 1) @ poses[apart:, :3, :3]
    x, y, z = relative[:, 0, 2], relative[:, 1, 2], relative[:, 2, 2]
    turn, tilt = np.degrees(np.arctan2(x, z)), np.degrees(np.arcsin(np.clip(y, -1, 1)))
    found = np.flatnonzero((abs(turn) >= LEAST) & (abs(turn) <= MOST) & (abs(tilt) <= 0.5))
    found = found[np.unique(np.linspace(0, len(found) - 1, min(PAIRS, len(found))).astype(int))]
    return [(int(n), int(n) + apart, float(turn[n])) for n in found]


def side_votes(
    pairs: Sequence[tuple[int, int, float]], picture: Callable[[int], np.ndarray], focal: float
) -> tuple[int, int]:
    """How many pairs of pictures turn as their poses say, and how many to the other side.

    picture: the one of a moment, (H, W, 3) uint8; focal: in its pixels. Pairs that show no
    difference count for neither.
    """
    right = wrong = 0
    for one, other, angle in pairs:
        shift = round(focal * np.tan(np.radians(angle)))
        before, after = (_bands(picture(moment)) for moment in (one, other))
        if not 0 < abs(shift) < before.shape[1] // 2:
            continue
        as_told, mirrored = (_apart(before, after, way) for way in (shift, -shift))
        right += as_told < mirrored
        wrong += mirrored < as_told
    return right, wrong


def _bands(picture: np.ndarray) -> np.ndarray:
    """The mean of the columns in bands of rows, (BANDS, W)."""
    grey = picture.mean(axis=-1)
    rows = len(grey) // BANDS
    return grey[: rows * BANDS].reshape(BANDS, rows, -1).mean(axis=1)


def _apart(before: np.ndarray, after: np.ndarray, shift: int) -> float:
    """How much two pictures differ if what is at x + shift in one is at x in the other."""
    if shift < 0:
        return _apart(after, before, -shift)
    return float(np.abs(before[:, shift:] - after[:, : before.shape[1] - shift]).mean())
