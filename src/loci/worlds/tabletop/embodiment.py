"""The robot at the tabletop, as a policy knows it."""

from __future__ import annotations

from collections.abc import Sequence

from loci.geometry import Camera
from loci.models.embodiment import Embodiment, RobotCamera, Vector
from loci.worlds.tabletop.arms import ARMS, CAMERAS, JOINTS
from loci.worlds.tabletop.table import RATE
from loci.worlds.tabletop.view import HEAD

JOINT_NAMES = tuple(f"{arm}_{joint}" for arm in ARMS for joint in (*range(1, JOINTS), "gripper"))
UNITS = tuple("1" if name.endswith("gripper") else "rad" for name in JOINT_NAMES)


def embodiment(
    cameras: Sequence[str] = CAMERAS, instructions: Sequence[str] = (), head: Camera = HEAD
) -> Embodiment:
    """Both arms' joints, and some of the three cameras; the wrists' pictures have half the head's
    size."""
    joints = Vector(names=JOINT_NAMES, units=UNITS)
    share = {name: 1 if name == CAMERAS[0] else 2 for name in cameras}
    return Embodiment(
        cameras=tuple(
            RobotCamera(name=name, height=head.height // by, width=head.width // by)
            for name, by in share.items()
        ),
        state=joints, actions=joints, rate=float(RATE), instructions=tuple(instructions),
    )
