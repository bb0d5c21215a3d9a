"""The two arms: where six joint angles put a gripper, and which angles put it somewhere.

Each arm has the joints of ALOHA's (waist, shoulder, elbow, forearm roll, wrist angle, wrist roll)
at sizes that reach the whole table, and a gripper. World axes: x right, y away from the robot, z
up, metres; the hand's own z points along its fingers. Kinematics only, nothing is dynamic.
Source: ours; the joint order is that of ALOHA (Zhao et al. 2023) and RMBench.
"""

from __future__ import annotations

import math

import numpy as np

from loci.errors import LociError
from loci.worlds.render.geom import Geom
from loci.worlds.render.materials import Color, Material

LEFT, RIGHT = 0, 1
ARMS = ("left", "right")
CAMERAS = ("head", *(f"{arm}_wrist" for arm in ARMS))
JOINTS = 7  # six angles in radians, and the gripper: 0 closed, 1 open
TABLE = 0.74
BASES = np.array([[-0.27, -0.2, TABLE], [0.27, -0.2, TABLE]])
SHOULDER, UPPER, FORE, HAND = 0.16, 0.32, 0.32, 0.15
LOWER = np.array([-2.8, -0.6, 0.1, -1.6, -1.2, -3.2, 0.0])
HIGHER = np.array([2.8, 1.9, 2.9, 1.6, 2.2, 3.2, 1.0])
# How far a joint may move in one control step: radians, and shares of the gripper's way.
SPEED = np.array([0.22, 0.22, 0.22, 0.22, 0.22, 0.22, 0.34])
OPENING = 0.08  # between the fingers of an open gripper, metres

# Seen in a picture: links are dark, so that nothing on the table looks like them.
_LINK = Material((0.22, 0.22, 0.26))
_BASE = Material((0.12, 0.12, 0.14))
_FINGER = Material((0.96, 0.96, 0.96))
# One band an arm tells the two apart.
_BANDS: tuple[Color, Color] = ((0.35, 0.75, 0.95), (0.95, 0.6, 0.2))
# Frames of an arm, in the order of `frames`.
FRAMES = ("waist", "upper", "fore", "hand", "left finger", "right finger")
HAND_FRAME = FRAMES.index("hand")
# The wrist camera stands behind the hand and looks along the fingers, a little towards them.
_TILT = 0.72
WRIST_CAMERA = np.array(
    [
        [1.0, 0, 0, 0],
        [0, np.cos(_TILT), -np.sin(_TILT), 0.085],
        [0, np.sin(_TILT), np.cos(_TILT), -0.09],
        [0, 0, 0, 1],
    ]
)


def frames(arm: int, joints: np.ndarray) -> np.ndarray:
    """Link frames (6, 4, 4) in the order of FRAMES for `joints` (7,) of an arm.

    A link's z points along it to the next joint; the hand's origin is the point between the
    fingertips.
    """
    waist, shoulder, elbow, roll, wrist, turn, grip = joints
    out = np.zeros((len(FRAMES), 4, 4))
    out[:, 3, 3] = 1
    base = out[0]
    # Waist 0 faces +y. Its x is the arm's right, its y points where the arm reaches.
    base[:3, :3] = _turned(np.eye(3), "z", waist)
    base[:3, 3] = BASES[arm]
    upper = _turned(base[:3, :3], "x", -shoulder)
    at = base[:3, 3] + SHOULDER * base[:3, 2]
    out[1, :3, :3], out[1, :3, 3] = upper, at
    fore = _turned(upper, "x", -elbow)
    at = at + UPPER * upper[:, 2]
    out[2, :3, :3], out[2, :3, 3] = fore, at
    at = at + FORE * fore[:, 2]
    hand = _turned(_turned(_turned(fore, "z", roll), "x", -wrist), "z", turn)
    tip = at + HAND * hand[:, 2]
    out[HAND_FRAME, :3, :3], out[HAND_FRAME, :3, 3] = hand, tip
    for side, finger in ((-1, 4), (1, 5)):
        out[finger] = out[HAND_FRAME]
        out[finger, :3, 3] += side * (0.5 * OPENING * grip + 0.006) * hand[:, 0]
    return out


def tip(arm: int, joints: np.ndarray) -> tuple[np.ndarray, float]:
    """The point between the fingertips (3,), and the hand's yaw about the vertical in radians.

    The yaw is 0 where the hand's x is the world's, as `reach` leaves it.
    """
    hand = frames(arm, joints)[HAND_FRAME]
    return hand[:3, 3], float(np.arctan2(hand[1, 0], hand[0, 0]))


def camera_pose(arm: int, joints: np.ndarray) -> np.ndarray:
    """Camera-to-world (4, 4) of the wrist camera, OpenCV axes."""
    return frames(arm, joints)[HAND_FRAME] @ WRIST_CAMERA


def reach(arm: int, point: np.ndarray, yaw: float = 0.0) -> np.ndarray:
    """The six angles that put the fingertips at `point` (3,), pointing straight down.

    Analytic, elbow up, forearm roll 0. Raises LociError for a point out of reach.
    """
    away = np.asarray(point, float) - BASES[arm]
    waist = -np.arctan2(away[0], away[1])
    # The wrist in the plane of the arm: out from the shoulder and up from it.
    out, up = np.hypot(away[0], away[1]), away[2] + HAND - SHOULDER
    distance = np.hypot(out, up)
    if not abs(UPPER - FORE) < distance < UPPER + FORE:
        at = ", ".join(f"{v:.2f}" for v in point)
        raise LociError(f"the {ARMS[arm]} arm does not reach ({at}); choose a point nearer to it")
    bend = np.arccos((UPPER**2 + distance**2 - FORE**2) / (2 * UPPER * distance))
    shoulder = np.arctan2(out, up) - bend
    elbow = np.pi - np.arccos((UPPER**2 + FORE**2 - distance**2) / (2 * UPPER * FORE))
    wrist = np.pi - shoulder - elbow
    # Pointing down, the hand sees the waist from the other side.
    return np.array([waist, shoulder, elbow, 0.0, wrist, _wrapped(waist - yaw)])


def geoms(arm: int) -> list[tuple[int, Geom]]:
    """What an arm looks like: pairs of (index in FRAMES, geom placed in that frame)."""
    band = Material(_BANDS[arm])

    def rod(length: float, radius: float) -> Geom:
        return Geom(
            "capsule", (radius, length / 2, 0), np.array([0, 0, length / 2]), material=_LINK
        )

    return [
        (0, Geom("cylinder", (0.05, SHOULDER / 2, 0), np.array([0, 0, SHOULDER / 2]),
                 material=_BASE)),
        (1, rod(UPPER, 0.028)),
        (2, rod(FORE, 0.022)),
        (HAND_FRAME, Geom("box", (0.022, 0.018, 0.035), np.array([0, 0, -HAND + 0.045]),
                     material=band)),
        (HAND_FRAME, Geom("box", (0.048, 0.014, 0.012), np.array([0, 0, -0.06]), material=_LINK)),
        (4, Geom("box", (0.006, 0.011, 0.03), np.array([0, 0, -0.025]), material=_FINGER)),
        (5, Geom("box", (0.006, 0.011, 0.03), np.array([0, 0, -0.025]), material=_FINGER)),
    ]  # fmt: skip


def _turned(axes: np.ndarray, axis: str, angle: float) -> np.ndarray:
    """`axes` (3, 3) turned by `angle` about its own x or z."""
    c, s = math.cos(angle), math.sin(angle)
    turn = [[1, 0, 0], [0, c, -s], [0, s, c]] if axis == "x" else [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    return axes @ np.array(turn)


def _wrapped(angle: float) -> float:
    """The same direction within half a turn of 0."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


REST = np.stack([
    np.append(reach(LEFT, np.array([-0.3, -0.02, TABLE + 0.2])), 1.0),
    np.append(reach(RIGHT, np.array([0.3, -0.02, TABLE + 0.2])), 1.0),
])  # fmt: skip
