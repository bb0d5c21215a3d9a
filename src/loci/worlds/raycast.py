"""Ray-cast rendering on mujoco-core: colour, depth and identity at any pose, no GL.

MuJoCo answers where each ray lands (`mj_multiRay`: geom, distance, normal); the colour is computed
here from the hit point. Pixels on an outline are cast again with four rays each. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import mujoco
import numpy as np

from loci.errors import LociError, nearest
from loci.types import Camera
from loci.worlds.materials import PATTERNS, Material

KINDS = {
    "plane": mujoco.mjtGeom.mjGEOM_PLANE,
    "sphere": mujoco.mjtGeom.mjGEOM_SPHERE,
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
}
GREY = Material((0.5, 0.5, 0.5))
# Towards the light, world axes (y down): from above, and aside so that no two walls match.
LIGHT = np.array([0.48, -0.8, -0.36]) / np.linalg.norm([0.48, -0.8, -0.36])
AMBIENT = 0.62
FRAMES_AT_ONCE = 33
# Only geoms of MuJoCo's group 0 stop a ray; those out of the picture wait in group 1.
VISIBLE_GROUP = np.array([1, 0, 0, 0, 0, 0], np.uint8)


@dataclass(frozen=True, eq=False)
class Geom:
    """One primitive.

    `kind` is a key of KINDS; `size` holds MuJoCo's half-sizes in metres (sphere: radius; cylinder
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
            raise LociError(f"unknown geom '{self.kind}'{nearest(self.kind, KINDS)}")


@dataclass(frozen=True, eq=False)
class Views:
    """What a camera saw from T poses.

    rgb uint8 (T, H, W, 3); depth float32 (T, H, W), metres along the optical axis, inf where
    nothing is hit; identity int16 (T, H, W), -1 for none; poses float64 (T, 4, 4), camera to world.
    """

    rgb: np.ndarray
    depth: np.ndarray
    identity: np.ndarray
    poses: np.ndarray


class Scene:
    """A fixed set of geoms, compiled once and rendered from any number of poses.

    One thread at a time may render a scene.
    """

    def __init__(self, geoms: tuple[Geom, ...] | list[Geom]):
        if not geoms:
            raise LociError("a scene needs at least one geom; add one")
        self.geoms = tuple(geoms)
        spec = mujoco.MjSpec()
        for geom in self.geoms:
            quaternion = np.zeros(4)
            mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(geom.rotation).reshape(9))
            # An endless plane is written with half-sizes 0; the third number is its grid only.
            size = (0.0, 0.0, 1.0) if geom.kind == "plane" else geom.size
            spec.worldbody.add_geom(
                type=KINDS[geom.kind], size=size, pos=geom.position, quat=quaternion
            )
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        mujoco.mj_kinematics(self._model, self._data)
        self._tables()

    def _tables(self) -> None:
        """Per-geom numbers that shading gathers by geom index."""
        geoms = self.geoms
        rotation = np.stack([g.rotation for g in geoms])
        position = np.stack([g.position for g in geoms])
        # Surface coordinates (u, v) = first two local axes: an affine map of the world point.
        self._position, self._facing = position, rotation[:, :, 2]
        self._plane = np.array([g.kind == "plane" for g in geoms])
        self._axes = rotation[:, :, :2].transpose(0, 2, 1)
        self._offset = -np.einsum("gij,gj->gi", self._axes, position)
        self._color = np.array([g.material.color for g in geoms], np.float32)
        self._contrast = np.array([g.material.second for g in geoms], np.float32) - self._color
        self._object = np.array([g.object for g in geoms] + [-1], np.int16)
        self._patterned = [
            (index, geom.material)
            for index, geom in enumerate(geoms)
            if geom.material.pattern != "plain"
        ]

    def render(self, poses: np.ndarray, camera: Camera | None = None) -> Views:
        """The views from camera-to-world `poses` (T, 4, 4), OpenCV axes.

        Raises LociError for poses of another shape or that are not finite.
        """
        camera = camera or Camera()
        poses = np.asarray(poses, np.float64)
        if poses.ndim != 3 or poses.shape[1:] != (4, 4):
            raise LociError(f"poses have shape {poses.shape}; give (T, 4, 4)")
        if not np.isfinite(poses).all():
            bad = int(np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)))[0])
            raise LociError(f"pose {bad} is not finite; fix it")
        shape = (len(poses), camera.height, camera.width)
        rgb, depth = np.empty((*shape, 3), np.uint8), np.empty(shape, np.float32)
        identity = np.empty(shape, np.int16)
        for start in range(0, len(poses), FRAMES_AT_ONCE):
            part = slice(start, start + FRAMES_AT_ONCE)
            rgb[part], depth[part], identity[part] = self._render(poses[part], camera)
        return Views(rgb, depth, identity, poses)

    def _render(
        self, poses: np.ndarray, camera: Camera
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rays, fine = _rays(camera)
        frames, count = len(poses), len(rays)
        shape = (frames, camera.height, camera.width)
        geom = np.empty((frames, count), np.int32)
        distance, normal = np.empty((frames, count)), np.empty((frames, count, 3))
        world = rays @ poses[:, :3, :3].transpose(0, 2, 1)
        hidden = self._hidden(poses, rays)
        for t in range(frames):
            self._model.geom_group[:] = hidden[t]
            self._cast(poses[t, :3, 3], world[t], geom[t], distance[t], normal[t])
        hit = geom >= 0
        depth = np.where(hit, distance * rays[:, 2], np.inf).astype(np.float32).reshape(shape)
        identity = self._object[geom].reshape(shape)
        pixel = np.float32(1.0 / camera.focal)
        origin = np.repeat(poses[:, None, :3, 3], count, axis=1)
        color = self._shade(geom, distance, normal, origin, world, pixel)

        frame, where = np.nonzero(_outline(geom.reshape(shape)).reshape(frames, count))
        bounds = np.searchsorted(frame, np.arange(frames + 1))
        vectors = fine[where] @ poses[frame, :3, :3].transpose(0, 2, 1)
        geom = np.empty((len(frame), 4), np.int32)
        distance, normal = np.empty((len(frame), 4)), np.empty((len(frame), 4, 3))
        for t in range(frames):
            part = slice(bounds[t], bounds[t + 1])
            if part.stop > part.start:
                self._model.geom_group[:] = hidden[t]
                self._cast(poses[t, :3, 3], vectors[part], geom[part], distance[part], normal[part])
        origin = np.repeat(poses[frame, None, :3, 3], 4, axis=1)
        edges = self._shade(geom, distance, normal, origin, vectors, 0.5 * pixel)
        color[frame, where] = edges.mean(axis=1)
        rgb = (color * 255 + 0.5).astype(np.uint8).reshape(*shape, 3)
        return rgb, depth, identity

    def _hidden(self, poses: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """1 for geoms that no ray from a pose can reach, else 0, (T, G): a third of the time.

        A geom is out when its bounding sphere misses the cone around the picture, a plane when the
        picture's corners all look along its normal.
        """
        offset = self._position - poses[:, None, :3, 3]
        distance = np.maximum(np.linalg.norm(offset, axis=-1), 1e-9)
        cosine = (offset @ poses[:, :3, 2, None])[..., 0] / distance
        radius = self._model.geom_rbound
        # The cone's half-angle, a hair wider for the rays of the outline pass.
        half = np.arccos(rays[:, 2].min()) + 0.02
        reach = half + np.arcsin(np.clip(radius / distance, 0.0, 1.0))
        sphere = (np.arccos(np.clip(cosine, -1.0, 1.0)) > reach) & (distance > radius)
        # Extreme rays of a pinhole picture are its corners: they bound every dot product.
        spread = (rays / rays[:, 2:])[:, :2].max(axis=0) * 1.05
        corners = np.array([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)])
        corners[:, :2] *= spread
        away = (corners @ poses[:, :3, :3].transpose(0, 2, 1)) @ self._facing.T >= 0
        return np.where(self._plane, away.all(axis=1), sphere).astype(np.int32)

    def _cast(
        self,
        origin: np.ndarray,
        rays: np.ndarray,
        geom: np.ndarray,
        distance: np.ndarray,
        normal: np.ndarray,
    ) -> None:
        """Fill geom, distance and normal (contiguous slices) for unit `rays` from `origin`."""
        mujoco.mj_multiRay(
            self._model,
            self._data,
            np.ascontiguousarray(origin),
            rays.reshape(-1),
            VISIBLE_GROUP,
            1,
            -1,
            geom.reshape(-1),
            distance.reshape(-1),
            normal.reshape(-1),
            geom.size,
            mujoco.mjMAXVAL,
        )

    def _shade(
        self,
        geom: np.ndarray,
        distance: np.ndarray,
        normal: np.ndarray,
        origin: np.ndarray,
        rays: np.ndarray,
        pixel: np.float32,
    ) -> np.ndarray:
        """Colours in [0, 1], float32, shape of `geom` + (3,); black where nothing was hit."""
        flat = geom.reshape(-1)
        distance = distance.reshape(-1)
        rays, normal = rays.reshape(-1, 3), normal.reshape(-1, 3)
        color = self._color[flat]
        origin = origin.reshape(-1, 3)
        for which, material in self._patterned:
            index = np.flatnonzero(flat == which)
            ray, far = rays[index], distance[index]
            point = origin[index] + far[:, None] * ray
            u, v = (point @ self._axes[which].T + self._offset[which]).astype(np.float32).T
            facing = np.abs(np.einsum("ni,ni->n", ray, normal[index]))
            width = np.maximum(pixel * far / np.maximum(facing, 0.2), 1e-6).astype(np.float32)
            blend = PATTERNS[material.pattern](u, v, material.period, width)[:, None]
            color[index] = self._color[which] + blend * self._contrast[which]
        # Half-Lambert (Valve's), so that sides away from the light keep their shape.
        lit = AMBIENT + (1 - AMBIENT) * (0.5 + 0.5 * (normal @ LIGHT).astype(np.float32))
        color *= lit[:, None]
        color[flat < 0] = 0.0
        return color.reshape(*geom.shape, 3)


@lru_cache(maxsize=8)
def _rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Camera rays (H*W, 3) through the pixel centres and (H*W, 4, 3) through their quarters."""
    h, w = camera.height, camera.width
    fine = Camera(height=2 * h, width=2 * w, fov=camera.fov).rays()
    fine = fine.reshape(h, 2, w, 2, 3).transpose(0, 2, 1, 3, 4).reshape(h * w, 4, 3)
    return camera.rays().reshape(-1, 3), np.ascontiguousarray(fine)


def _outline(geom: np.ndarray) -> np.ndarray:
    """Pixels (T, H, W) whose right, left, upper or lower neighbour shows another geom."""
    edge = np.zeros(geom.shape, bool)
    across = geom[:, :, 1:] != geom[:, :, :-1]
    down = geom[:, 1:] != geom[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    return edge
