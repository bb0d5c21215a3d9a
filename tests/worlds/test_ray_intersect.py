"""Planes worked out here and solids looked for where they can be, against MuJoCo asked for all."""

import mujoco
import numpy as np
import pytest

from loci.geometry import Camera
from loci.worlds.render.geom import KINDS, Geom
from loci.worlds.render.ray_intersect import VISIBLE_GROUP, RayCaster
from loci.worlds.render.rays import Rays
from loci.worlds.render.renderer import Scene


def turn(rng: np.random.Generator) -> np.ndarray:
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return turned * np.linalg.det(turned)


def clutter(rng: np.random.Generator, count: int) -> tuple[Geom, ...]:
    return tuple(
        Geom(
            str(rng.choice(list(KINDS))),
            tuple(rng.uniform(0.1, 0.9, 3)),
            rng.uniform(-3, 3, 3),
            turn(rng),
        )
        for _ in range(count)
    )


@pytest.mark.parametrize("seed", range(12))
def test_rays_land_where_mujoco_says(seed):
    rng = np.random.default_rng(seed)
    caster = RayCaster(clutter(rng, 1 + seed))
    camera = Camera(height=24, width=32, fov=float(rng.uniform(30, 120)))
    poses = np.tile(np.eye(4), (5, 1, 1))
    for pose in poses:
        pose[:3, :3], pose[:3, 3] = turn(rng), rng.uniform(-3, 3, 3)
    world = [pose[:3, :3] @ camera.rays().reshape(-1, 3).T for pose in poses]
    seen, pixels = caster.in_view(poses, camera)
    starts = np.arange(len(poses) + 1) * pixels[0].size
    rays = Rays(np.concatenate(world, axis=1), poses[:, :3, 3], starts)
    hits = caster.cast(rays, np.flatnonzero(pixels), seen)
    caster._model.geom_group[:] = 0
    for t, part in enumerate(rays.spans()):
        which, far = np.empty(pixels[t].size, np.int32), np.empty(pixels[t].size)
        normal = np.empty((pixels[t].size, 3))
        mujoco.mj_multiRay(
            caster._model, caster._data, rays.origins[t].copy(), world[t].T.reshape(-1),
            VISIBLE_GROUP, 1, -1, which, far, normal.reshape(-1), len(which), mujoco.mjMAXVAL,
        )  # fmt: skip
        hit = which >= 0
        np.testing.assert_array_equal(hits.geom[part], which)
        np.testing.assert_allclose(hits.distance[part][hit], far[hit], rtol=1e-12)
        assert np.isinf(hits.distance[part][~hit]).all()
        solid = (hits.solid >= part.start) & (hits.solid < part.stop)
        np.testing.assert_array_equal(hits.normal[solid], normal[hits.solid[solid] - part.start])
        plane = np.isin(which, caster._planes)
        np.testing.assert_allclose(caster.normal[which[plane]], normal[plane], rtol=0, atol=1e-12)


def test_only_rays_that_may_meet_a_solid_are_asked_of_mujoco():
    ball = Geom("sphere", (0.2, 0, 0), np.array([0, 0, 3.0]))
    behind = Geom("box", (0.2, 0.2, 0.2), np.array([0, 0, -3.0]))
    beside = Geom("box", (0.2, 0.2, 0.2), np.array([5.0, 0, 0.0]))
    seen, pixels = RayCaster((ball, behind, beside)).in_view(np.eye(4)[None], Camera())
    assert seen.tolist() == [[True, False, False]]
    assert 0 < pixels.mean() < 0.03


def test_a_solid_around_the_camera_fills_the_picture():
    hall = Geom("box", (2.0, 2.0, 2.0), np.zeros(3), object=1)
    views = Scene([hall]).render(np.eye(4)[None])
    assert (views.identity == 1).all()
    np.testing.assert_allclose(views.depth, 2.0, rtol=1e-6)
