"""Ray-cast rendering on mujoco-core: colour, depth and identity at any pose, no GL.

`RayCaster` answers where each ray lands; the colour is computed here from the hit point. Pixels on
an outline are cast again with four rays each. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from loci.errors import LociError
from loci.geometry import Camera
from loci.worlds.render.geom import Geom
from loci.worlds.render.materials import PATTERNS
from loci.worlds.render.rays import Hits, Rays, along

# Towards the light where y points down: from above, and aside so that no two walls match.
LIGHT = np.array([0.48, -0.8, -0.36]) / np.linalg.norm([0.48, -0.8, -0.36])
AMBIENT = 0.62
# Enough that the cost of a numpy call is shared; more of them only take memory.
FRAMES_AT_ONCE = 16


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
    """A set of geoms, compiled once and rendered from any number of poses; they may move.

    `light` (3,) is the unit vector towards the light, world axes. `geoms` are as they were
    compiled. One thread at a time may render a scene.
    """

    def __init__(self, geoms: tuple[Geom, ...] | list[Geom], light: np.ndarray = LIGHT):
        if not geoms:
            raise LociError("a scene needs at least one geom; add one")
        # MuJoCo is needed to render, and not to say what stands where.
        from loci.worlds.render.ray_intersect import RayCaster

        self.geoms, self._light = tuple(geoms), light
        self._caster = RayCaster(self.geoms)
        # Per-geom numbers that shading gathers by geom index; the last, -1, is black for a miss.
        rotation = np.stack([g.rotation for g in geoms])
        # Surface coordinates (u, v) = first two local axes: an affine map of the world point.
        self._axes = rotation[:, :, :2].transpose(0, 2, 1)
        self._shift = np.array([g.material.offset for g in geoms])
        positions = np.stack([g.position for g in geoms])
        self._offset = self._shift - np.einsum("gij,gj->gi", self._axes, positions)
        self._color = np.array([*(g.material.color for g in geoms), (0, 0, 0)], np.float32).T.copy()
        second = np.array([g.material.second for g in geoms], np.float32).T
        self._contrast = second - self._color[:, :-1]
        self._object = np.array([g.object for g in geoms] + [-1], np.int16)
        self._lit = self._planes_lit()
        self._patterned = [
            (index, geom.material, geom.kind == "plane")
            for index, geom in enumerate(geoms)
            if geom.material.pattern != "plain"
        ]

    def move(self, which: np.ndarray, positions: np.ndarray, rotations: np.ndarray) -> None:
        """Put geoms `which` (M,) at `positions` (M, 3), metres, turned by `rotations` (M, 3, 3).

        Views are then, bit for bit, those of a scene compiled with the geoms there. Costs little.
        Raises LociError for arrays of other shapes, and for geoms that the scene does not have.
        """
        which = np.asarray(which, np.intp)
        positions, rotations = np.asarray(positions, float), np.asarray(rotations, float)
        count = len(which)
        if positions.shape != (count, 3) or rotations.shape != (count, 3, 3):
            raise LociError(
                f"{count} geoms do not move to positions {positions.shape} and rotations "
                f"{rotations.shape}; give ({count}, 3) and ({count}, 3, 3)"
            )
        if count and not 0 <= which.min() <= which.max() < len(self.geoms):
            raise LociError(f"the scene has geoms 0 to {len(self.geoms) - 1}; move one of those")
        self._caster.move(which, positions, rotations)
        self._axes[which] = rotations[:, :, :2].transpose(0, 2, 1)
        local = np.einsum("gij,gj->gi", self._axes[which], positions)
        self._offset[which] = self._shift[which] - local
        self._lit = self._planes_lit()

    def _planes_lit(self) -> np.ndarray:
        """Brightness by geom, (G + 1,), the last for a miss.

        A plane has one normal; what a solid's pixels have is written over it.
        """
        return np.append(_lit(self._caster.normal, self._light), np.float32(0))

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
            self._render(poses[part], camera, rgb[part], depth[part], identity[part])
        return Views(rgb, depth, identity, poses)

    def _render(
        self,
        poses: np.ndarray,
        camera: Camera,
        rgb: np.ndarray,
        depth: np.ndarray,
        identity: np.ndarray,
    ) -> None:
        """Fill the pictures that `poses` see: rgb (T, H, W, 3), depth and identity (T, H, W)."""
        shape, count = depth.shape, camera.height * camera.width
        centres, quarters = _rays(camera)
        pixel = np.float32(1 / camera.focal)
        seen, near = self._caster.in_view(poses, camera)

        rays = _turned(np.tile(centres, len(poses)), poses, np.arange(len(poses) + 1) * count)
        hits = self._caster.cast(rays, np.flatnonzero(near), seen)
        depth[:] = (hits.distance.reshape(-1, count) * centres[2]).reshape(shape)
        identity[:] = self._object.take(hits.geom).reshape(shape)
        color = self._shade(rays, hits, pixel)

        edge = np.flatnonzero(_outline(hits.geom.astype(np.int16).reshape(shape)))
        fine = quarters.take(edge % count, axis=1).reshape(3, -1)
        rays = _turned(fine, poses, 4 * np.searchsorted(edge, rays.starts))
        close = np.flatnonzero(near.reshape(-1)[edge].repeat(4))
        four = self._shade(rays, self._caster.cast(rays, close, seen), pixel / 2)
        color[:, edge] = sum(four[:, quarter::4] for quarter in range(4)) / 4

        color *= 255
        color += 0.5
        for channel in range(3):
            rgb[..., channel] = color[channel].reshape(shape)

    def _shade(self, rays: Rays, hits: Hits, pixel: np.float32) -> np.ndarray:
        """Colours in [0, 1] of what `rays` hit, float32 (3, N); black for a miss.

        `pixel` is the side of what a ray stands for, at a distance of one.
        """
        color = self._color.take(hits.geom, axis=1)
        for which, material, plane in self._patterned:
            index = np.flatnonzero(hits.geom == which)
            if not len(index):
                continue
            ray, far = rays.directions.take(index, axis=1), hits.distance[index]
            counts = [part.stop - part.start for part in rays.spans(index)]
            u, v = (
                np.repeat(rays.origins @ axis, counts) + far * along(axis, ray) + offset
                for axis, offset in zip(self._axes[which], self._offset[which], strict=True)
            )
            if plane:
                facing = along(self._caster.normal[which], ray)
            else:
                normal = hits.normal[np.searchsorted(hits.solid, index)]
                facing = (normal.T * ray).sum(axis=0)
            slant = np.maximum(np.abs(facing), 0.2)
            width = np.maximum(pixel * far / slant, 1e-6).astype(np.float32)
            blend = PATTERNS[material.pattern](
                u.astype(np.float32), v.astype(np.float32), material.period, width
            )
            for channel in range(3):
                contrast = blend * self._contrast[channel, which]
                color[channel, index] = self._color[channel, which] + contrast
        lit = self._lit.take(hits.geom)
        lit[hits.solid] = _lit(hits.normal, self._light)
        color *= lit
        return color


def _lit(normal: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Brightness of surfaces with unit normals (N, 3) under `light` (3,), float32 (N,).

    Half-Lambert (Valve's), so that sides away from the light keep their shape.
    """
    return AMBIENT + (1 - AMBIENT) * (0.5 + 0.5 * (normal @ light).astype(np.float32))


def _turned(directions: np.ndarray, poses: np.ndarray, starts: np.ndarray) -> Rays:
    """Rays of several poses (T, 4, 4) from directions (3, N) in their own axes, turned in place."""
    rays = Rays(directions, poses[:, :3, 3], starts)
    for pose, part in zip(poses, rays.spans(), strict=True):
        directions[:, part] = pose[:3, :3] @ directions[:, part]
    return rays


@lru_cache(maxsize=8)
def _rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Camera rays (3, H*W) through the pixel centres and (3, H*W, 4) through their quarters."""
    h, w = camera.height, camera.width
    fine = Camera(height=2 * h, width=2 * w, fov=camera.fov).rays()
    fine = fine.reshape(h, 2, w, 2, 3).transpose(4, 0, 2, 1, 3).reshape(3, h * w, 4)
    return camera.rays().reshape(-1, 3).T.copy(), fine


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
