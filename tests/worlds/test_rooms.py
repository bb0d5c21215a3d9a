"""Rooms: from a seed alone, with clearly different things in them."""

import itertools

import numpy as np
import pytest
from skimage.color import rgb2lab

from loci.errors import LociError
from loci.geometry import Camera
from loci.worlds.render.shapes import COLORS, SHAPES, SPLIT_COLORS, SPLIT_SHAPES, SPLIT_WALLS
from loci.worlds.rooms.paths import PATHS, make_path, wander
from loci.worlds.rooms.room import SPLITS, camera_pose, candidates, sample_room

SMALL = Camera(height=16, width=16)


@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_same_room(split):
    first, second = sample_room(3, split), sample_room(3, split)
    assert first.objects == second.objects
    assert first.walls == second.walls
    np.testing.assert_array_equal(
        first.render(first.start[None], SMALL).rgb, second.render(second.start[None], SMALL).rgb
    )


def test_seeds_and_splits_give_different_rooms():
    rooms = [sample_room(seed, split) for seed in range(20) for split in SPLITS]
    assert len({(room.width, room.depth, room.objects) for room in rooms}) == len(rooms)


def test_the_open_split_shares_no_vocabulary():
    for table in (SPLIT_SHAPES, SPLIT_COLORS, SPLIT_WALLS):
        assert table["train"] == table["heldout"]
        assert not set(table["train"]) & set(table["open"])
    assert {s for split in SPLITS for s in SPLIT_SHAPES[split]} == set(SHAPES)
    assert {c for split in SPLITS for c in SPLIT_COLORS[split]} == set(COLORS)
    for split in SPLITS:
        for seed in range(30):
            room = sample_room(seed, split)
            assert {o.shape for o in room.objects if o} <= set(SPLIT_SHAPES[split])
            assert {o.color for o in room.objects if o} <= set(SPLIT_COLORS[split])
            assert {w.pattern for w in room.walls} <= set(SPLIT_WALLS[split])


def test_colours_are_far_apart_to_the_eye():
    lab = rgb2lab(np.array([list(COLORS.values())]))[0]
    for (a, x), (b, y) in itertools.combinations(zip(COLORS, lab, strict=True), 2):
        assert np.linalg.norm(x - y) > 20, (a, b)


@pytest.mark.parametrize("split", SPLITS)
def test_objects_and_walls_of_a_room_are_distinct(split):
    for seed in range(50):
        room = sample_room(seed, split)
        things = [(o.shape, o.color) for o in room.objects if o]
        assert len(set(things)) == len(things)
        assert len(things) in (7, 8)
        assert len({w.color for w in room.walls}) == 4
        assert len({w.pattern for w in room.walls}) == 4


def test_every_object_is_seen_from_the_start_at_a_good_size():
    camera = Camera()
    for seed in range(4):
        room = sample_room(seed, "heldout")
        yaws = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        x, z = room.start[0, 3], room.start[2, 3]
        views = room.render(np.stack([camera_pose(x, z, yaw) for yaw in yaws]), camera)
        for index in range(len(room.objects)):
            mask = views.identity == index
            best = mask.sum(axis=(1, 2)).argmax()
            rows, columns = np.nonzero(mask[best])
            extent = max(np.ptp(rows), np.ptp(columns)) + 1
            assert 9 <= extent <= 30, (seed, room.objects[index])


@pytest.mark.parametrize("split", SPLITS)
def test_candidates_are_eight_distinct_and_share_one_trait(split):
    for seed in range(10):
        room = sample_room(seed, split)
        for index, true in enumerate(room.objects):
            assert true is not None
            choice = candidates(room, index)
            assert choice[0] == true
            assert len({(o.shape, o.color) for o in choice}) == 8
            assert sum(o.color == true.color for o in choice[1:]) >= 2
            assert sum(o.shape == true.shape for o in choice[1:]) >= 2
            assert {o.shape for o in choice} <= set(SPLIT_SHAPES[split])
            assert {o.color for o in choice} <= set(SPLIT_COLORS[split])
            assert all((o.position, o.size, o.yaw) == (true.position, true.size, true.yaw)
                       for o in choice)  # fmt: skip
            assert choice == candidates(room, index)


def test_candidates_look_different():
    room = sample_room(7, "heldout")
    x, _, z = room.places[2].position
    pose = camera_pose(0.0, 0.0, np.arctan2(x, z))[None]
    looks = [room.with_object(2, o).render(pose).rgb.astype(float) for o in candidates(room, 2)]
    for a, b in itertools.combinations(looks, 2):
        assert (np.abs(a - b).max(axis=-1) > 30).sum() > 20


def test_another_object_changes_only_its_own_pixels():
    room = sample_room(5, "train")
    poses = np.stack([camera_pose(0.0, 0.0, yaw) for yaw in np.arange(8) * np.pi / 4])
    emptied = room.with_object(0, None)
    before, without = room.render(poses), emptied.render(poses)
    assert (before.identity == 0).any()
    assert not (without.identity == 0).any()
    # One pixel of margin for the smoothed outline.
    mask = before.identity == 0
    near = mask.copy()
    for axis, shift in ((1, 1), (1, -1), (2, 1), (2, -1)):
        near |= np.roll(mask, shift, axis)
    np.testing.assert_array_equal(before.rgb[~near], without.rgb[~near])
    others = ~mask & (before.identity >= 0)
    np.testing.assert_array_equal(before.identity[others], without.identity[others])
    assert len(emptied.objects) == len(room.objects)
    assert emptied.places == room.places


@pytest.mark.parametrize("split", SPLITS)
def test_the_camera_is_never_inside_anything(split):
    """Every path keeps to the free disc, and everything in the room keeps out of it."""
    for seed in range(50):
        room = sample_room(seed, split)
        ways = [make_path(name, room.start, seed, room) for name in PATHS]
        ways.append(wander(room.start, seed, room))
        for way in ways:
            assert np.hypot(way.poses[:, 0, 3], way.poses[:, 2, 3]).max() <= room.free_radius + 1e-9
        assert min(room.width, room.depth) / 2 > room.free_radius + 0.5
        for thing in room.objects:
            assert thing is not None
            for geom in thing.geoms(0):
                x, y, z = geom.position
                gap = np.hypot(x, z) - room.free_radius
                assert gap > np.linalg.norm(geom.size) + 0.05
                assert -2.6 < y < 0
                assert abs(x) < room.width / 2
                assert abs(z) < room.depth / 2


def test_every_pixel_hits_something():
    for split in SPLITS:
        room = sample_room(11, split)
        way = make_path("explore", room.start, 11, room)
        depth = room.render(way.poses[::4], SMALL).depth
        assert np.isfinite(depth).all()
        assert depth.min() > 0.15


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: sample_room(0, "held"), "did you mean 'heldout'"),
        (lambda: sample_room(-1, "train"), "negative"),
        (lambda: candidates(sample_room(0, "train"), 9), "objects 0 to"),
        (lambda: sample_room(0, "train").with_object(-1, None), "objects 0 to"),
    ],
)
def test_bad_input_is_one_line(call, word):
    with pytest.raises(LociError, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)
