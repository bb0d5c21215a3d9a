"""Flats: walls hide what is near, nothing is in the way, and what was left comes back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.data.cases import Case
from loci.data.episodes import EpisodeCache, render_episode
from loci.data.truth import prepare
from loci.errors import LociError
from loci.geometry import Camera
from loci.worlds.render.geom import Geom
from loci.worlds.render.shapes import SPLIT_COLORS, SPLIT_SHAPES, SPLIT_WALLS
from loci.worlds.render.visibility import seen_before
from loci.worlds.rooms.courses import DOOR_HOME, DOORS, FLAT_COURSES, interior_of
from loci.worlds.rooms.flat import Flat, sample_flat
from loci.worlds.rooms.flat_paths import (
    ASKEW,
    BESIDE,
    FLAT_PATHS,
    STRIDE,
    make_flat_path,
    wander_flat,
)
from loci.worlds.rooms.paths import PATHS, TURN, Path
from loci.worlds.rooms.plan import DOOR_WIDTH, ROOMS
from loci.worlds.rooms.room import EYE, SPLITS, camera_pose, candidates, sample_room

SMALL = Camera(height=16, width=16)
CAMERA = Camera(height=32, width=32)
splits, seeds = st.sampled_from(SPLITS), st.integers(0, 10_000)


def clearance(flat: Flat, points: np.ndarray) -> np.ndarray:
    """From `points` (N, 2) of (x, z) at eye height to the nearest solid, metres: exact for walls,
    to the box around each part of an object."""
    return np.min([_gap(g, points) for g in flat.scene.geoms if g.kind != "plane"], axis=0)


def _gap(geom: Geom, points: np.ndarray) -> np.ndarray:
    a, b, c = geom.size
    half = {"box": (a, b, c), "sphere": (a, a, a), "cylinder": (a, a, b), "capsule": (a, a, a + b)}
    extent = np.abs(geom.rotation) @ np.array(half[geom.kind])
    if geom.object < 0 and abs(geom.position[1] + EYE) > extent[1]:  # a lintel
        return np.full(len(points), np.inf)
    beyond = np.maximum(np.abs(points - geom.position[[0, 2]]) - extent[[0, 2]], 0)
    return np.linalg.norm(beyond, axis=1)


def plane(poses: np.ndarray) -> np.ndarray:
    return poses[:, [0, 2], 3]


def yaws(poses: np.ndarray) -> np.ndarray:
    return np.unwrap(np.arctan2(poses[:, 0, 2], poses[:, 2, 2]))


def rooms_of(flat: Flat, path: Path) -> list[int]:
    """The rooms in the order in which a path visits them."""
    visited = [flat.plan.room_at(x, z) for x, z in plane(path.poses).tolist()]
    return [room for room, _ in itertools.groupby(visited)]


@pytest.mark.parametrize("split", SPLITS)
def test_flats_come_from_their_seed_and_have_rooms_of_their_own(split):
    counts = set()
    for seed in range(12):
        flat, again = sample_flat(seed, split), sample_flat(seed, split)
        assert (flat.objects, flat.walls, flat.plan.doors) == (
            again.objects, again.walls, again.plan.doors,
        )  # fmt: skip
        rooms = len(flat.plan.chambers)
        counts.add(rooms)
        assert len(flat.plan.doors) == {2: 1, 3: 2, 4: 4}[rooms]
        assert [flat.homes.count(n) in (3, 4, 5) for n in range(rooms)] == [True] * rooms
        things = [(o.shape, o.color) for o in flat.places]
        assert len(set(things)) == len(things)
        assert {s for s, _ in things} <= set(SPLIT_SHAPES[split])
        assert {c for _, c in things} <= set(SPLIT_COLORS[split])
        for walls in flat.walls:
            assert len({w.color for w in walls}) == len({w.pattern for w in walls}) == 4
            assert {w.pattern for w in walls} <= set(SPLIT_WALLS[split])
        papers = [(w.color, w.pattern) for walls in flat.walls for w in walls]
        assert len(set(papers)) == 4 * rooms
        assert candidates(flat, 0)[0] == flat.places[0]
    assert counts == set(ROOMS)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, split=splits)
def test_objects_stand_inside_their_room_and_out_of_the_way(seed, split):
    flat = sample_flat(seed, split)
    for thing, home in zip(flat.places, flat.homes, strict=True):
        chamber = flat.plan.chambers[home]
        for geom in thing.geoms(0):
            x, y, z = geom.position
            assert abs(x - chamber.x) < chamber.width / 2
            assert abs(z - chamber.z) < chamber.depth / 2
            assert -2.6 < y < 0
    for a, b in itertools.combinations(flat.places, 2):
        apart = np.hypot(a.position[0] - b.position[0], a.position[2] - b.position[2])
        assert apart > (a.size + b.size) / 2
    corners = np.concatenate(flat.plan.ground)
    assert clearance(flat, corners).min() > 0.15


def test_no_light_comes_through_the_walls():
    """Whichever way one looks, the first thing hit is a solid, or the floor or ceiling nearer than
    the outer walls: what is outside is never seen."""
    for split, rooms in zip(SPLITS, ROOMS, strict=True):
        flat = sample_flat(5, split, (rooms,))
        chambers = flat.plan.chambers
        low = np.min([(c.x - c.width / 2, c.z - c.depth / 2) for c in chambers], axis=0)
        high = np.max([(c.x + c.width / 2, c.z + c.depth / 2) for c in chambers], axis=0)
        poses = np.stack([
            camera_pose(c.x, c.z, yaw) for c in chambers for yaw in np.arange(8) * np.pi / 4
        ])  # fmt: skip
        depth = flat.render(poses, CAMERA).depth
        rays = CAMERA.rays() / CAMERA.rays()[..., 2:]
        points = np.einsum("tij,thwj->thwi", poses[:, :3, :3], rays * depth[..., None])
        points = (points + poses[:, None, None, :3, 3])[..., [0, 2]]
        assert np.isfinite(points).all()
        # Inside some room, or in the thickness of a wall: a door's jambs.
        inside = np.zeros(depth.shape, bool)
        for c in chambers:
            half = np.array([c.width, c.depth]) / 2 + 0.16 + 1e-3
            inside |= (np.abs(points - c.middle) <= half).all(axis=-1)
        assert inside.all()
        assert (points >= low - 1e-3).all()
        assert (points <= high + 1e-3).all()


def test_patterns_go_on_over_a_door():
    """The pieces of a wall with a door are coloured as the whole wall is."""
    flat = sample_flat(4, "train", (2,))
    door = flat.plan.doors[0]
    room = door.rooms[0]
    chamber = flat.plan.chambers[room]
    pose = camera_pose(chamber.x, chamber.z, 0.0 if door.side == 0 else np.pi / 2)[None]
    with_door = flat.render(pose, CAMERA)
    walled = Flat(**{**vars_of(flat), "plan": type(flat.plan)(flat.plan.chambers, ())})
    whole = walled.render(pose, CAMERA)
    same = np.isclose(with_door.depth, whole.depth, rtol=1e-6)
    assert 0.3 < same.mean() < 0.98
    # Seams and outlines are smoothed; all else is bit for bit the same.
    edge = np.zeros_like(same)
    edge[:, 1:-1, 1:-1] = True
    for shift, axis in ((1, 1), (-1, 1), (1, 2), (-1, 2)):
        edge &= np.roll(same, shift, axis)
    differing = (with_door.rgb != whole.rgb).any(axis=-1) & same & edge
    assert differing.mean() < 0.02


def vars_of(flat: Flat) -> dict[str, object]:
    return {name: getattr(flat, name) for name in flat.__dataclass_fields__}


def test_walls_hide_what_is_near():
    """From beside the wall, frames of one room see nothing of what the other shows."""
    for seed in range(3):
        flat = sample_flat(seed, "heldout", (2,))
        door = flat.plan.doors[0]
        ahead = np.array([0.0, 1.0] if door.side == 0 else [1.0, 0.0])
        # Half a metre before and behind the door's wall, away from the door, and looking away.
        yaw = float(np.arctan2(*ahead))
        at = [door.middle + s * 0.6 * ahead for s in (-1, 1)]
        poses = np.stack([
            camera_pose(*at[0].tolist(), yaw + np.pi), camera_pose(*at[1].tolist(), yaw),
        ])  # fmt: skip
        assert np.linalg.norm(at[0] - at[1]) < 1.3
        depth = flat.render(poses, CAMERA).depth
        assert not seen_before(depth, poses, 1, CAMERA).any()


@pytest.mark.parametrize("name", list(FLAT_PATHS))
@settings(max_examples=6, deadline=None)
@given(seed=seeds, split=splits)
def test_named_paths_go_through_doors_and_come_back(name, seed, split):
    kind = FLAT_PATHS[name]
    flat = sample_flat(seed, split, kind.rooms)
    path = make_flat_path(name, flat, seed)
    assert (len(path.poses), path.out) == (kind.frames, kind.out)
    assert kind.out % 4 == kind.frames % 4 == 1
    assert path.poses[0].tobytes() == flat.start.tobytes()
    visited = rooms_of(flat, path)
    assert visited[0] == visited[-1]
    assert len(visited) == {"doors-return": 5, "doors-round": 5}.get(name, 3)
    if name == "doors-round":
        assert len(set(visited)) == 4
    else:
        assert visited == visited[::-1]
    # Bit for bit at home; beside it, nothing is exactly repeated.
    if name == "door-beside":
        assert not len(path.pairs)
    else:
        assert path.poses[-1].tobytes() == flat.start.tobytes()
        assert len(path.pairs)
    for i, j in path.pairs:
        assert i < path.out <= j
        assert path.poses[i].tobytes() == path.poses[j].tobytes()
    if name in ("door-return", "doors-return"):
        np.testing.assert_array_equal(path.poses, path.poses[::-1])
    walks(flat, path)


def walks(flat: Flat, path: Path) -> None:
    """The camera keeps clear of everything, and moves smoothly."""
    steps = np.linalg.norm(np.diff(plane(path.poses), axis=0), axis=1)
    assert steps.max() < STRIDE + BESIDE[0] + 0.05
    assert np.abs(np.diff(yaws(path.poses))).max() < TURN + np.radians(ASKEW[1]) + 1e-6
    # What is between two frames, too.
    ends = plane(path.poses)
    between = np.concatenate([ends, (ends[1:] + ends[:-1]) / 2])
    assert clearance(flat, between).min() > 0.15
    assert flat.plan.off_ground(ends).max() < 0.01
    assert flat.plan.off_ground(between).max() < 0.05


@settings(max_examples=10, deadline=None)
@given(seed=seeds, split=splits)
def test_a_way_beside_keeps_its_bounds(seed, split):
    flat = sample_flat(seed, split)
    path = make_flat_path("door-beside", flat, seed)
    back = path.poses[path.out :]
    there = path.poses[path.out - 2 :: -1]
    far = np.linalg.norm(plane(back) - plane(there), axis=1)
    assert len(far) == path.out - 1
    assert BESIDE[0] - 1e-9 <= far.min()
    assert far.max() <= BESIDE[1] + 1e-9
    askew = np.degrees(np.abs(np.angle(np.exp(1j * (yaws(back) - yaws(there))))))
    assert ASKEW[0] - 1e-6 <= askew.min()
    assert askew.max() <= ASKEW[1] + 1e-6
    np.testing.assert_array_equal(path.poses[:, 1, 3], flat.start[1, 3])


def test_ways_beside_differ():
    far = []
    for seed in range(12):
        flat = sample_flat(seed, "train")
        path = make_flat_path("door-beside", flat, seed)
        gap = plane(path.poses[path.out :]) - plane(path.poses[path.out - 2 :: -1])
        far.append(np.linalg.norm(gap, axis=1).max())
    assert min(far) < 0.35
    assert max(far) > 0.45


@settings(max_examples=10, deadline=None)
@given(seed=seeds, split=splits, chunks=st.integers(1, 30))
def test_training_walks_keep_clear_and_have_their_length(seed, split, chunks):
    flat = sample_flat(seed, split)
    path = wander_flat(flat, seed, 4 * chunks)
    assert len(path.poses) == 1 + 4 * chunks
    assert path.out % 4 == 1
    assert path.poses[0].tobytes() == flat.start.tobytes()
    walks(flat, path)


@pytest.mark.parametrize("seed", [68, 196, 234, 379])
def test_walks_from_the_edge_keep_to_the_ground(seed):
    """There the next door is behind a corner, and beside the trail there may be no room."""
    for split in ("train", "open"):
        flat = sample_flat(seed, split)
        assert flat.plan.off_ground(plane(wander_flat(flat, seed).poses)).max() < 0.01


def test_training_walks_use_memory_in_all_ways():
    repeated, rooms, homes, near = [], [], 0, 0
    for seed in range(25):
        flat = sample_flat(seed, "train")
        path = wander_flat(flat, seed)
        keys = [pose.tobytes() for pose in path.poses]
        repeated.append(1 - len(set(keys)) / len(keys))
        visited = rooms_of(flat, path)
        rooms.append(len(visited))
        homes += len(visited) > 2 and visited[0] in visited[2:]
        # Beside a place of before: not the same, and nearer than a stride to the side.
        whole = np.round((yaws(path.poses) - yaws(path.poses)[0]) / TURN, 6) % 1
        near += bool(((whole > 1e-3) & (whole < 1 - 1e-3)).any())
    assert np.mean(repeated) > 0.2
    assert np.mean(rooms) > 2
    assert homes >= 10
    assert near >= 5


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> EpisodeCache:
    return EpisodeCache(tmp_path_factory.mktemp("episodes"))


def test_cases_in_flats_have_their_truth(cache):
    assert not set(PATHS) & set(FLAT_PATHS)
    assert {course.path for course in FLAT_COURSES} == set(FLAT_PATHS)
    case = Case("heldout", 3, DOOR_HOME)
    truth = prepare(case, cache, SMALL)
    flat = interior_of(DOOR_HOME.path, 3, "heldout")
    assert isinstance(flat, Flat)
    views = flat.render(truth.poses, SMALL)
    np.testing.assert_array_equal(truth.rgb, views.rgb)
    np.testing.assert_array_equal(truth.depth, views.depth)
    assert case.key == "heldout/door-home/3"
    # Walking home shows what was seen, and what was not.
    assert 0.1 < truth.seen.mean() < 0.95
    episode = render_episode("heldout", 3, "door-home", SMALL)
    np.testing.assert_array_equal(cache.get("heldout", 3, "door-home", SMALL).rgb, episode.rgb)
    with pytest.raises(LociError, match="did you mean 'door-home'"):
        cache.get("heldout", 3, "door-hom", SMALL)


def test_objects_left_behind_come_back_after_96_frames(cache):
    """In flats the identity metric has what it needs: the true object among eight, one pixel."""
    truth = prepare(Case("heldout", 0, DOORS), cache, Camera(height=48, width=48))
    for thing in truth.returns:
        assert truth.seen[thing.frame - truth.observed][thing.mask].mean() > 0.9
        assert thing.frame >= truth.out
        assert len({r.tobytes() for r in thing.renderings}) == 8
        np.testing.assert_array_equal(thing.renderings[0], truth.rgb[thing.frame])
    assert len(truth.returns) >= 3
    assert any(t.absence >= 96 and t.group == "first" for t in truth.returns)


def test_the_wrong_flat_has_the_same_walls_and_other_papers(cache):
    truth = prepare(Case("heldout", 1, DOORS), cache, SMALL)
    wrong = truth.other_room
    assert wrong.shape == truth.rgb[: truth.observed - 1].shape
    assert np.abs(wrong.astype(int) - truth.rgb[: truth.observed - 1]).mean() > 10
    flat = interior_of(DOORS.path, 1, "heldout")
    other = flat.another(7)
    assert isinstance(other, Flat)
    assert other.objects != flat.objects
    assert other.walls != flat.walls
    np.testing.assert_array_equal(other.start, flat.start)
    path = make_flat_path(DOORS.path, flat, 1)
    assert clearance(other, plane(path.poses)).min() > 0.15
    assert sample_room(1, "open").another(2).objects == sample_room(2, "open").objects


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: sample_flat(0, "held"), "did you mean 'heldout'"),
        (lambda: sample_flat(-1, "train"), "negative"),
        (lambda: sample_flat(0, "train", (2, 5)), "2 to 4 rooms, not 5"),
        (lambda: sample_flat(0, "train", ()), "not none"),
        (lambda: make_flat_path("door", sample_flat(0), 0), "unknown path 'door'"),
        (lambda: make_flat_path("doors-round", sample_flat(0, rooms=(2,)), 0), "needs a flat of 4"),
        (lambda: wander_flat(sample_flat(0), 0, 30), "multiple of 4"),
        (lambda: candidates(sample_flat(0), 99), "objects 0 to"),
    ],
)
def test_bad_input_is_one_line(call, word):
    with pytest.raises(LociError, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_doors_are_wide_enough_for_what_passes():
    for seed in range(6):
        flat = sample_flat(seed, "open")
        for door in flat.plan.doors:
            gap = clearance(flat, door.middle[None])[0]
            assert gap == pytest.approx(DOOR_WIDTH / 2)
