"""Primitives: what scenes are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from loci.errors import LociError, did_you_mean
from loci.worlds.render.materials import Material

KINDS = ("plane", "sphere", "box", "cylinder", "capsule", "ellipsoid")
GREY = Material((0.5, 0.5, 0.5))


@dataclass(frozen=True, eq=False)
class Geom:
    """One primitive.

    `kind` is one of KINDS; `size` holds MuJoCo's half-sizes in metres (sphere: radius; cylinder
    and capsule: radius, half-length along the local z; box and ellipsoid: three; plane: unused, it
    is endless and seen from the side its local z points to). `position` (3,) and `rotation` (3, 3)
    place it in the world; `object` is the identity it shows in the mask, -1 for none.
    """

    kind: str
    size: tuple[float, float, float]
    position: np.ndarray
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    object: int = -1
    material: Material = GREY

    def __post_init__(self):
        if self.kind not in KINDS:
            raise LociError(f"unknown geom '{self.kind}'{did_you_mean(self.kind, KINDS)}")
