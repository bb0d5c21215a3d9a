"""The renderer against geometry that can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.geometry import Camera
from loci.worlds.render.geom import KINDS, Geom
from loci.worlds.render.materials import PATTERNS, Material
from loci.worlds.render.ray_intersect import RayCaster
from loci.worlds.render.renderer import Scene
from loci.worlds.rooms.room import camera_pose, sample_room

CAMERA = Camera()
FACING_BACK = np.diag([-1.0, 1.0, -1.0])  # a plane whose normal looks towards -z


def one_pose() -> np.ndarray:
    return np.eye(4)[None]


def test_depth_of_a_plane_is_its_distance_along_the_axis():
    scene = Scene([Geom("plane", (0, 0, 0), np.array([0, 0, 3.0]), FACING_BACK, object=5)])
    views = scene.render(one_pose(), CAMERA)
    np.testing.assert_allclose(views.depth, 3.0, rtol=1e-6)
    assert (views.identity == 5).all()
    assert views.rgb.dtype == np.uint8
    assert views.depth.dtype == np.float32
    assert views.identity.dtype == np.int16


def test_a_plane_seen_from_behind_is_not_hit():
    scene = Scene([Geom("plane", (0, 0, 0), np.array([0, 0, 3.0]))])
    views = scene.render(one_pose(), CAMERA)
    assert np.isinf(views.depth).all()
    assert (views.identity == -1).all()
    assert (views.rgb == 0).all()


@settings(max_examples=20, deadline=None)
@given(
    x=st.floats(-1, 1), y=st.floats(-1, 1), z=st.floats(1.5, 5), radius=st.floats(0.2, 1.0),
    yaw=st.floats(-0.4, 0.4),
)  # fmt: skip
def test_depth_and_mask_of_a_sphere(x, y, z, radius, yaw):
    centre = np.array([x, y, z])
    pose = camera_pose(0.0, 0.0, yaw)
    pose[1, 3] = 0.0
    views = Scene([Geom("sphere", (radius, 0, 0), centre, object=2)]).render(pose[None], CAMERA)
    rays = CAMERA.rays() @ pose[:3, :3].T
    along = rays @ centre
    inside = along**2 - (centre @ centre - radius**2)
    clear = np.abs(inside) > 1e-9
    np.testing.assert_array_equal((views.identity[0] == 2)[clear], (inside > 0)[clear])
    hit = views.identity[0] == 2
    expected = (along - np.sqrt(np.maximum(inside, 0))) * CAMERA.rays()[..., 2]
    np.testing.assert_allclose(views.depth[0][hit], expected[hit], rtol=1e-4)


def test_identity_is_the_nearest_objects():
    near = Geom("sphere", (0.2, 0, 0), np.array([0, 0, 2.0]), object=0)
    far = Geom("box", (1.0, 1.0, 0.1), np.array([0, 0, 4.0]), object=1)
    identity = Scene([far, near]).render(one_pose(), CAMERA).identity[0]
    assert identity[32, 32] == 0
    assert identity[32, 20] == 1
    assert identity[0, 0] == -1


def test_a_point_keeps_its_colour_when_the_camera_moves():
    """Warp by exact depth: what both views see, away from outlines, looks the same."""
    room = sample_room(4, "train")
    x, z = room.start[0, 3], room.start[2, 3]
    poses = np.stack(
        [room.start, camera_pose(0.7 * x, 0.7 * z, np.arctan2(*room.start[[0, 2], 2]))]
    )
    views = room.render(poses, CAMERA)
    rays = CAMERA.rays()
    points = (
        poses[0, :3, 3] + (rays / rays[..., 2:] * views.depth[0][..., None]) @ poses[0, :3, :3].T
    )
    local = (points - poses[1, :3, 3]) @ poses[1, :3, :3]
    u = local[..., 0] / local[..., 2] * CAMERA.focal + 32 - 0.5
    v = local[..., 1] / local[..., 2] * CAMERA.focal + 32 - 0.5
    i, j = np.round(v).astype(int), np.round(u).astype(int)
    seen = (local[..., 2] > 0) & (i >= 0) & (i < 64) & (j >= 0) & (j < 64)
    i, j = i[seen], j[seen]
    same = np.abs(views.depth[1][i, j] - local[..., 2][seen]) < 0.05
    difference = np.abs(views.rgb[1][i, j].astype(float) - views.rgb[0][seen].astype(float)).max(
        axis=-1
    )[same]
    assert same.mean() > 0.8
    assert np.median(difference) <= 2
    assert (difference < 30).mean() > 0.85


def everything(caster: RayCaster, poses: np.ndarray, camera: Camera):
    """In place of RayCaster.in_view."""
    pixels = (len(poses), camera.height, camera.width)
    return np.ones((len(poses), len(caster.normal)), bool), np.ones(pixels, bool)


def test_leaving_out_what_is_outside_the_picture_changes_nothing(monkeypatch):
    room = sample_room(1, "heldout")
    poses = np.stack([camera_pose(0.3, -0.4, yaw) for yaw in np.linspace(-3, 3, 9)])
    fast = room.scene.render(poses, CAMERA)
    monkeypatch.setattr(RayCaster, "in_view", everything)
    slow = room.scene.render(poses, CAMERA)
    np.testing.assert_array_equal(fast.rgb, slow.rgb)
    np.testing.assert_array_equal(fast.depth, slow.depth)
    np.testing.assert_array_equal(fast.identity, slow.identity)


def test_views_do_not_depend_on_the_others_in_the_batch():
    room = sample_room(2, "train")
    poses = np.stack([camera_pose(0.1, 0.2, yaw) for yaw in np.linspace(0, 6, 40)])
    together = room.render(poses, CAMERA).rgb
    alone = np.concatenate([room.render(pose[None], CAMERA).rgb for pose in poses])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_patterns_blend_between_their_two_colours(pattern):
    u, v = np.meshgrid(np.linspace(-4, 4, 97), np.linspace(-1, 3, 97))
    blend = PATTERNS[pattern](u, v, 0.9, np.full_like(u, 0.05))
    assert blend.shape == u.shape
    assert blend.min() >= 0
    assert blend.max() <= 1
    if pattern != "plain":
        assert blend.std() > 0.2


def turn(rng: np.random.Generator) -> np.ndarray:
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return turned * np.linalg.det(turned)


@pytest.mark.parametrize("seed", range(10))
def test_moved_geoms_look_as_if_compiled_where_they_are(seed):
    """Bit for bit, for every kind and pattern, and for geoms compiled at the origin."""
    rng = np.random.default_rng(seed)

    def place() -> tuple[np.ndarray, np.ndarray]:
        if rng.random() < 0.3:
            return np.zeros(3), np.eye(3)
        return rng.uniform(-3, 3, 3), turn(rng)

    geoms = []
    for index in range(10):
        kind, pattern = str(rng.choice(list(KINDS))), str(rng.choice(list(PATTERNS)))
        material = Material(tuple(rng.random(3)), tuple(rng.random(3)), pattern, 0.5)
        size = tuple(rng.uniform(0.1, 0.9, 3))
        geoms.append(Geom(kind, size, *place(), object=index, material=material))
    poses = np.tile(np.eye(4), (3, 1, 1))
    for pose in poses:
        pose[:3, :3], pose[:3, 3] = turn(rng), rng.uniform(-3, 3, 3)
    scene, which = Scene(geoms), np.array([1, 3, 4, 8])
    scene.render(poses, CAMERA)
    for _ in range(2):
        places = [place() for _ in which]
        scene.move(which, np.stack([p for p, _ in places]), np.stack([r for _, r in places]))
        for index, (position, rotation) in zip(which, places, strict=True):
            geoms[index] = replace(geoms[index], position=position, rotation=rotation)
        moved, fresh = scene.render(poses, CAMERA), Scene(geoms).render(poses, CAMERA)
        np.testing.assert_array_equal(moved.rgb, fresh.rgb)
        np.testing.assert_array_equal(moved.depth, fresh.depth)
        np.testing.assert_array_equal(moved.identity, fresh.identity)


def test_a_scene_is_lit_from_where_it_is_told():
    floor = Geom("plane", (0, 0, 0), np.array([0, 0, 3.0]), FACING_BACK)
    lights = (np.array([0, 0, -1.0]), np.array([0, 0, 1.0]))
    towards, away = (Scene([floor], light).render(one_pose()).rgb.max() for light in lights)
    assert towards > away + 30


def test_other_picture_sizes():
    views = sample_room(0, "train").render(one_pose(), Camera(height=48, width=80, fov=75.0))
    assert views.rgb.shape == (1, 48, 80, 3)


def ball() -> Scene:
    return Scene([Geom("sphere", (1, 0, 0), np.zeros(3))])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Geom("cone", (1, 1, 1), np.zeros(3)), "cone"),
        (lambda: Material((1, 1, 1), pattern="row"), "'rows'"),
        (lambda: Scene([]), "geom"),
        (lambda: ball().move(np.array([1]), np.zeros((1, 3)), np.eye(3)[None]), "geoms 0 to 0"),
        (lambda: ball().move(np.array([0]), np.zeros(3), np.eye(3)[None]), r"give \(1, 3\)"),
        (lambda: sample_room(0, "train").render(np.eye(4)), "shape"),
        (lambda: sample_room(0, "train").render(np.full((2, 4, 4), np.nan)), "pose 0"),
    ],
)
def test_bad_input_is_one_line(make, word):
    with pytest.raises(LociError, match=word) as caught:
        make()
    assert "\n" not in str(caught.value)
