"""The pictures of the tabletop: a head camera and two wrist cameras.

World axes: x right, y away from the robot, z up, metres. Cameras follow OpenCV's axes. The head
camera looks down on the whole table and does not move; the wrist cameras move with the hands.
Source: ours.
"""

from __future__ import annotations

import numpy as np

from loci.errors import LociError
from loci.geometry import Camera
from loci.worlds.render.geom import Geom
from loci.worlds.render.materials import Material
from loci.worlds.render.renderer import Scene
from loci.worlds.tabletop import arms
from loci.worlds.tabletop.arms import CAMERAS, LEFT, RIGHT, TABLE
from loci.worlds.tabletop.table import Lamp, Layout, State

HEAD = Camera(height=64, width=80, fov=48.0)
WRIST_FOV = 75.0
# From above the robot's side of the table, so that the arms come in from the picture's lower edge.
_EYE, _AIM = np.array([0.0, -0.02, TABLE + 0.86]), np.array([0.0, 0.135, TABLE])
_LIGHT = np.array([0.35, -0.45, 0.85]) / np.linalg.norm([0.35, -0.45, 0.85])
_TOP = Geom("plane", (0, 0, 0), np.array([0, 0, TABLE]), material=Material((0.80, 0.74, 0.66)))
_LAMP = np.array([0.33, 0.34, TABLE])
_BULBS: dict[Lamp, Material] = {
    "red": Material((1.0, 0.1, 0.05)),
    "green": Material((0.15, 1.0, 0.3)),
    "blue": Material((0.1, 0.35, 1.0)),
}
_HOUSING = Geom("box", (0.04, 0.04, 0.008), _LAMP, material=Material((0.06, 0.06, 0.06)))
# What is not to be seen waits below the table's top.
_BELOW = np.array([0, 0, -1.0])


class TableView:
    """A layout's geoms, compiled once and moved to each state."""

    def __init__(self, layout: Layout, head: Camera = HEAD):
        if head.height % 2 or head.width % 2 or min(head.height, head.width) < 2:
            raise LociError(
                f"the wrists' pictures are half of the head's {head.height} x {head.width}; "
                "give even numbers"
            )
        self.head = head
        self.wrist = Camera(height=head.height // 2, width=head.width // 2, fov=WRIST_FOV)
        # Geoms that move: each in the frame of an arm's link, an item, a button's cap or a lamp.
        parts = [
            (len(arms.FRAMES) * arm + frame, geom, -1)
            for arm in (LEFT, RIGHT)
            for frame, geom in arms.geoms(arm)
        ]
        frame = len(arms.FRAMES) * 2
        still: list[Geom] = [_TOP, _HOUSING, *layout.scenery]
        for index, item in enumerate(layout.objects):
            parts += [(frame + index, geom, index) for geom in item.geoms]
        frame += len(layout.objects)
        for index, button in enumerate(layout.buttons):
            identity = len(layout.objects) + index
            parts += [(frame + index, geom, identity) for geom in button.cap]
            still += [
                _placed(geom, np.array(button.at) + geom.position, identity)
                for geom in button.geoms
            ]
        frame += len(layout.buttons)
        for index, material in enumerate(_BULBS.values()):
            bulb = Geom("cylinder", (0.034, 0.02, 0), np.array([0, 0, 0.02]), material=material)
            parts.append((frame + index, bulb, -1))
        self._feet = np.array([b.at for b in layout.buttons]).reshape(-1, 3)
        self._frame = np.array([frame for frame, _, _ in parts])
        self._local = np.stack([_pose(geom.rotation, geom.position) for _, geom, _ in parts])
        self._moving = np.arange(len(still), len(still) + len(parts))
        moving = [_placed(geom, geom.position, identity) for _, geom, identity in parts]
        self.scene = Scene([*still, *moving], _LIGHT)

    def render(self, state: State, lamp: Lamp) -> dict[str, np.ndarray]:
        """What the three cameras see: {"head", "left_wrist", "right_wrist"}, uint8 (H, W, 3)."""
        views = self._look(state, lamp, "rgb")
        return dict(zip(CAMERAS, views, strict=True))

    def identities(self, state: State, lamp: Lamp) -> dict[str, np.ndarray]:
        """Which item each pixel shows, int16 (H, W): its index, then the buttons', or -1."""
        views = self._look(state, lamp, "identity")
        return dict(zip(CAMERAS, views, strict=True))

    def _look(self, state: State, lamp: Lamp, what: str) -> list[np.ndarray]:
        links = [arms.frames(arm, joints) for arm, joints in enumerate(state.joints)]
        world = np.concatenate([*links, self._frames(state, lamp)])[self._frame] @ self._local
        self.scene.move(self._moving, world[:, :3, 3], world[:, :3, :3])
        wrists = np.stack([link[arms.HAND_FRAME] @ arms.WRIST_CAMERA for link in links])
        head = self.scene.render(_HEAD_POSE[None], self.head)
        hands = self.scene.render(wrists, self.wrist)
        return [getattr(head, what)[0], *getattr(hands, what)]

    def _frames(self, state: State, lamp: Lamp) -> np.ndarray:
        """The frames of objects, caps and lamps, (F, 4, 4)."""
        objects, caps = len(state.places), len(state.depths)
        frames = np.tile(np.eye(4), (objects + caps + len(_BULBS), 1, 1))
        c, s = np.cos(state.yaws), np.sin(state.yaws)
        frames[:objects, 0, 0], frames[:objects, 1, 1] = c, c
        frames[:objects, 0, 1], frames[:objects, 1, 0] = -s, s
        frames[:objects, :3, 3] = state.places
        frames[objects : objects + caps, :3, 3] = self._feet
        frames[objects : objects + caps, 2, 3] += state.depths
        frames[objects + caps :, :3, 3] = [_LAMP if bulb == lamp else _BELOW for bulb in _BULBS]
        return frames


def _pose(rotation: np.ndarray, position: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, position
    return pose


def _placed(geom: Geom, position: np.ndarray, identity: int) -> Geom:
    return Geom(geom.kind, geom.size, position, geom.rotation, identity, geom.material)


def _looking(eye: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Camera-to-world (4, 4), OpenCV axes, with the world's x to the right."""
    forward = (at - eye) / np.linalg.norm(at - eye)
    right = np.array([1.0, 0, 0])
    return _pose(np.stack([right, np.cross(forward, right), forward], axis=1), eye)


_HEAD_POSE = _looking(_EYE, _AIM)
