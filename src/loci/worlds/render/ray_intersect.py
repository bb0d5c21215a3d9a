"""Where rays land on a set of primitives.

Planes are endless and few: they are intersected here with all rays at once. Solids are small in the
picture: MuJoCo (`mj_multiRay`), which costs several times as much a ray, is asked only for the rays
inside their bounds on the screen. Source: ours.
"""

from __future__ import annotations

import numpy as np

from loci.geometry import Camera
from loci.io.extras import extra
from loci.worlds.render.geom import KINDS, Geom
from loci.worlds.render.rays import Hits, Rays

with extra("worlds"):
    import mujoco

_MUJOCO = {kind: getattr(mujoco.mjtGeom, f"mjGEOM_{kind.upper()}") for kind in KINDS}
# Only geoms of MuJoCo's group 0 stop a ray; planes and those out of the picture wait in group 1.
VISIBLE_GROUP = np.array([1, 0, 0, 0, 0, 0], np.uint8)
# A box's corners, (3, 8); every second one is a corner of the side with z = 1.
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (1, -1)], float).T
# What reaches nearer than this to the camera's own plane, in metres, may fill the picture.
_NEAR = 1e-3
# Bounds on the screen are this much wider, in pixels, against rounding.
_MARGIN = 1e-3
# A ray that falls by less than this a metre is parallel to a plane.
_LEVEL = 1e-30


class RayCaster:
    """Geoms that rays are cast at. They are compiled once and may move. One thread at a time."""

    def __init__(self, geoms: tuple[Geom, ...]):
        spec = mujoco.MjSpec()
        for geom in geoms:
            quaternion = np.zeros(4)
            mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(geom.rotation).reshape(9))
            # An endless plane is written with half-sizes 0; the third number is its grid only.
            size = (0.0, 0.0, 1.0) if geom.kind == "plane" else geom.size
            spec.worldbody.add_geom(
                type=_MUJOCO[geom.kind], size=size, pos=geom.position, quat=quaternion
            )
        self._model = spec.compile()
        # Else a geom that was compiled at its body's origin would stay there.
        self._model.geom_sameframe[:] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE
        self._data = mujoco.MjData(self._model)
        plane = np.array([g.kind == "plane" for g in geoms])
        self._planes, self._solids = np.flatnonzero(plane), np.flatnonzero(~plane)
        self._boxes = self._model.geom_aabb[self._solids].reshape(-1, 2, 3, 1).swapaxes(0, 1)
        self._model.geom_group[:] = 1
        self._refresh()

    def move(self, which: np.ndarray, positions: np.ndarray, rotations: np.ndarray) -> None:
        """Put geoms `which` (M,) at `positions` (M, 3), turned by `rotations` (M, 3, 3).

        Rays then land, bit for bit, as on geoms that were compiled there.
        """
        self._model.geom_pos[which] = positions
        for index, rotation in zip(which.tolist(), rotations.reshape(-1, 9), strict=True):
            quaternion = self._model.geom_quat[index]
            mujoco.mju_mat2Quat(quaternion, rotation)
            mujoco.mju_normalize4(quaternion)
        self._refresh()

    def _refresh(self) -> None:
        """Compute what depends on where the geoms are."""
        mujoco.mj_kinematics(self._model, self._data)
        rotation = self._data.geom_xmat.reshape(-1, 3, 3)
        self.normal, self._position = rotation[:, :, 2].copy(), self._data.geom_xpos.copy()
        # The corners of the solids' boxes, (3, 8, S).
        centre, half = self._boxes
        corners = rotation[self._solids] @ (centre + half * _CORNERS)
        self._corners = (corners + self._position[self._solids, :, None]).transpose(1, 2, 0).copy()

    def in_view(self, poses: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """What rays from `poses` (T, 4, 4) may meet: geoms (T, G), and pixels of solids (T, H, W).

        A plane may be met where a corner of the picture looks against its normal, a solid in the
        rectangle of pixels around the corners of its box.
        """
        seen = np.zeros((len(poses), len(self.normal)), bool)
        pixels = np.zeros((len(poses), camera.height, camera.width), bool)
        size = np.array([camera.width, camera.height])[:, None, None]
        frame = np.append((size + _MARGIN).ravel() / 2, camera.focal)[:, None] * _CORNERS[:, ::2]
        toward = self.normal[self._planes] @ poses[:, :3, :3] @ frame
        seen[:, self._planes] = (toward < 0).any(axis=-1)

        turns, origins = poses[:, :3, :3], poses[:, :3, 3:]
        local = turns.mT @ (self._corners.reshape(3, -1) - origins)
        local = local.reshape(len(poses), 3, *self._corners.shape[1:])
        aside, z = local[:, :2] * camera.focal, local[:, 2:]
        edge = (size + _MARGIN) / 2 * z
        # Out of view: all corners beyond the same edge of the picture, or behind the camera.
        out = (aside > edge).all(axis=2) | (aside < -edge).all(axis=2) | (z < 0).all(axis=2)
        seen[:, self._solids] = ~out.any(axis=1)
        filling = (z < _NEAR).any(axis=2)
        screen = aside / np.maximum(z, _NEAR) + size / 2
        low = np.where(filling, 0, np.floor(screen.min(axis=2) - _MARGIN)).clip(0).astype(int)
        high = np.where(filling, size[:, 0], np.ceil(screen.max(axis=2) + _MARGIN)).astype(int)
        for t, solid in np.argwhere(seen[:, self._solids]).tolist():
            (x0, y0), (x1, y1) = low[t, :, solid], high[t, :, solid]
            pixels[t, y0:y1, x0:x1] = True
        return seen, pixels

    def cast(self, rays: Rays, near: np.ndarray, seen: np.ndarray) -> Hits:
        """Where `rays` land on the geoms `seen` (T, G); only those in `near` (M,) meet solids."""
        geom, distance = self._cast_planes(rays, self._planes[seen[:, self._planes].any(axis=0)])
        directions = np.ascontiguousarray(rays.directions.take(near, axis=1).T)
        which, far = np.empty(len(near), np.int32), np.empty(len(near))
        normal = np.empty((len(near), 3))
        for t, part in enumerate(rays.spans(near)):
            if part.stop == part.start:
                continue
            self._model.geom_group[self._solids] = ~seen[t, self._solids]
            mujoco.mj_multiRay(
                self._model,
                self._data,
                np.ascontiguousarray(rays.origins[t]),
                directions[part].reshape(-1),
                VISIBLE_GROUP,
                1,
                -1,
                which[part],
                far[part],
                normal[part].reshape(-1),
                part.stop - part.start,
                mujoco.mjMAXVAL,
            )
        won = np.flatnonzero((which >= 0) & (far < distance[near]))
        solid = near[won]
        geom[solid], distance[solid] = which[won], far[won]
        return Hits(geom, distance, solid, normal[won])

    def _cast_planes(self, rays: Rays, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of `planes` (P,) for every ray, -1 for none, and its distance."""
        inwards = -self.normal[planes]
        height = ((self._position[planes, None] - rays.origins) * inwards[:, None]).sum(axis=-1)
        height[height <= 0] = np.inf
        far = inwards @ rays.directions
        np.maximum(far, _LEVEL, out=far)
        for t, part in enumerate(rays.spans()):
            np.divide(height[:, t, None], far[:, part], out=far[:, part])
        distance = far.min(axis=0, initial=mujoco.mjMAXVAL)
        # The first where two are equally far: numbers fall, and the greatest is taken.
        number = np.arange(len(planes), 0, -1, dtype=np.min_scalar_type(len(planes)))
        number = (number[:, None] * (far == distance)).max(axis=0, initial=0)
        geom = np.append(-1, planes[::-1]).take(number)
        distance[number == 0] = np.inf
        return geom, distance
