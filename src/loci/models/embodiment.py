"""The robot that a policy is for: what its cameras, its state and its actions are.

Training takes it from the data, and it travels in the checkpoint's configuration. With the
normalisation it is all that turns a robot's observation into the model's input and the model's
output into the robot's actions. Source: ours; the words are those of LeRobot's features and of Open
X-Embodiment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np

from loci.config import Config
from loci.errors import LociError, did_you_mean
from loci.geometry import Camera
from loci.io.mosaic import mosaic


@dataclass(frozen=True, kw_only=True)
class RobotCamera(Config):
    """A camera by its name, and the size of its pictures in the training data, in pixels (None:
    unknown)."""

    name: str
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True, kw_only=True)
class Vector(Config):
    """The numbers of a state or of an action: their names and their units ("rad", "m"; "1" for a
    share). Empty: unknown."""

    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.units and len(self.units) != len(self.names):
            raise LociError(f"{len(self.units)} units for {len(self.names)} names; give one each")


@dataclass(frozen=True, kw_only=True)
class Embodiment(Config):
    """A robot, as a policy knows it.

    cameras: in the order of the mosaic, whose layout is `mosaic`: the first camera at the bottom
    (MemoryWAM). state, actions: their numbers, in order. rate: actions a second (None: unknown).
    instructions: those of the training data. Raises LociError for cameras without a layout and for
    names that repeat.
    """

    cameras: tuple[RobotCamera, ...]
    mosaic: Literal["memorywam"] = "memorywam"
    state: Vector = Vector()
    actions: Vector = Vector()
    rate: float | None = None
    instructions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.camera_names
        if len(names) not in (1, 3):
            raise LociError(f"{len(names)} cameras in a mosaic; give one, or three")
        if len(set(names)) < len(names):
            raise LociError(f"cameras {', '.join(names)} are not all different; give each one name")
        if self.rate is not None and self.rate <= 0:
            raise LociError(f"{self.rate} actions a second; give more than 0, or None for unknown")

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(camera.name for camera in self.cameras)

    @property
    def instruction(self) -> str | None:
        """The instruction of a policy that was trained for one task."""
        return self.instructions[0] if len(self.instructions) == 1 else None

    def picture(self, views: Mapping[str, Any], camera: Camera) -> np.ndarray:
        """What the model sees of the robot's `views`: uint8 (..., H, W, 3), of `camera`'s size.

        views: uint8 RGB (..., h, w, 3) of each camera; further ones are left aside. They may be
        larger or smaller than those of the training data, not of another shape. Raises LociError
        for a missing camera and for pictures that do not belong together.
        """
        found = [self._view(views, one) for one in self.cameras]
        lead = found[0].shape[:-3]
        for one, view in zip(self.cameras, found, strict=True):
            if view.shape[:-3] != lead:
                raise LociError(
                    f"camera '{one.name}' has pictures {view.shape}, '{self.cameras[0].name}' has "
                    f"{found[0].shape}; give as many of each"
                )
        flat = mosaic([view.reshape(-1, *view.shape[-3:]) for view in found], camera)
        return flat.reshape(*lead, *flat.shape[1:])

    def check_width(self, actions: int, state: int) -> None:
        """LociError where the named numbers are not as many as the model's."""
        for what, field, vector, width in (
            ("action", "actions", self.actions, actions), ("state", "proprio", self.state, state)
        ):
            if vector.names and len(vector.names) != width:
                raise LociError(
                    f"the robot has {len(vector.names)} numbers in its {what}, the model {width}; "
                    f"set expert.{field} to as many"
                )

    def check_other(self, other: Embodiment) -> None:
        """LociError where a robot, `other`, cannot be acted on by a policy for this one: a camera
        is missing, the numbers of its state or actions stand in another order, or it has another
        rate. What one of them does not know may be anything."""
        for name in self.camera_names:
            if name not in other.camera_names:
                raise LociError(
                    f"the policy sees by the camera '{name}', which this robot lacks"
                    f"{did_you_mean(name, other.camera_names)}"
                )
        for what, own, its in (
            ("state", self.state.names, other.state.names),
            ("action", self.actions.names, other.actions.names),
        ):
            # Other names may be another way of writing; the same names must be at their places.
            if own != its and set(own) & set(its):
                odd = next(pair for pair in zip_longest(own, its) if pair[0] != pair[1])
                raise LociError(
                    f"the policy's {what} has '{odd[0]}' where this robot's has '{odd[1]}'; give "
                    f"the numbers in the policy's order: {', '.join(own)}"
                )
        if self.rate and other.rate and self.rate != other.rate:
            raise LociError(
                f"the policy acts {self.rate:g} times a second and this robot {other.rate:g}; run "
                "it at the policy's rate"
            )

    def _view(self, views: Mapping[str, Any], camera: RobotCamera) -> np.ndarray:
        name = camera.name
        if name not in views:
            raise LociError(
                f"no pictures of the camera '{name}'; give those of "
                f"{', '.join(self.camera_names)}{did_you_mean(name, views)}"
            )
        view = np.asarray(views[name])
        if view.ndim < 3 or view.shape[-1] != 3 or view.dtype != np.uint8:
            raise LociError(
                f"pictures of the camera '{name}' are {view.dtype} {view.shape}; give uint8 RGB, "
                "(H, W, 3)"
            )
        height, width = view.shape[-3:-1]
        if camera.height and camera.width and height * camera.width != width * camera.height:
            raise LociError(
                f"pictures of the camera '{name}' are {height} x {width}, and the policy knows it "
                f"at {camera.height} x {camera.width}; crop them to that shape"
            )
        return view
