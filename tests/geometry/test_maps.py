"""Maps hold what was seen: both forms, from any side, in any order, from files, and moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxes import CAMERA, CUBE, pose_of, view
from loci.errors import LociError
from loci.geometry import cells, relative_to
from loci.geometry.depth import intrinsics_of, unproject
from loci.geometry.forms import map_of
from loci.geometry.scene_map import Render, SceneMap, View
from loci.geometry.splat import splat
from loci.geometry.tsdf import TSDF
from loci.geometry.voxels import VoxelMap

FORMS: dict[str, Callable[..., SceneMap]] = {"voxels": VoxelMap, "tsdf": TSDF}
TURN = [pose_of(15.0 * step, (0.1, 0.0, -0.2)) for step in range(24)]


def written(form: str, views: list[View], size: float = 0.05, **options: object) -> SceneMap:
    built = FORMS[form](size, **options)
    for each in views:
        built.write(each)
    return built


def look(built: SceneMap, pose: Tensor, now: int = 24) -> Render:
    (found,) = built.render(pose[None], intrinsics_of(CAMERA), CAMERA.height, CAMERA.width, now)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_what_was_seen_is_drawn_again(form: str) -> None:
    built = written(form, [view(pose, n, CUBE) for n, pose in enumerate(TURN)])
    for pose in (TURN[3], pose_of(50, (0.3, 0.1, -0.1))):
        found, truth = look(built, pose), view(pose, 0, CUBE)
        assert found.covered.float().mean() > 0.94
        near = (found.depth - truth.depth).abs()[found.covered]
        assert near.median() < 0.03
        wrong = (found.payload - truth.payload.float()).abs().amax(-1)[found.covered] > 40
        assert wrong.float().mean() < 0.05
        back = unproject(found.depth[None], intrinsics_of(CAMERA)[None], pose[None])[0]
        assert (back - found.point)[found.covered].norm(dim=-1).median() < 0.05


@pytest.mark.parametrize("form", FORMS)
def test_unknown_is_not_black(form: str) -> None:
    built = written(form, [view(TURN[0])])
    behind = look(built, pose_of(180.0))
    assert not behind.covered.any()
    assert not behind.confidence.any()
    seen = look(built, TURN[0], now=7)
    assert seen.covered.float().mean() > 0.95
    assert (seen.age[seen.covered] == 7).all()
    assert (seen.confidence[seen.covered] > 0).all()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(6)))
def test_equal_frames_give_the_same_voxels_in_any_order(order: list[int]) -> None:
    views = [view(TURN[n], 0, CUBE) for n in range(6)]
    first = written("voxels", views, patience=0)
    second = written("voxels", [views[n] for n in order], patience=0)
    assert same(first.tree(), second.tree())
    assert torch.equal(look(first, TURN[2]).payload, look(second, TURN[2]).payload)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_views_give_the_same_map(form: str) -> None:
    first, second = (
        written(form, [view(TURN[n], n, CUBE) for n in range(6)]) for _ in range(2)
    )
    assert same(first.tree(), second.tree())


@pytest.mark.parametrize("form", FORMS)
def test_many_views_are_a_mean_that_goes_on(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wall that was seen often in one colour has the new one, once that was seen as often."""
    monkeypatch.setattr(cells, "MOST", 15)
    old = view(TURN[0])
    new = replace(old, payload=255 - old.payload)
    built = written(form, [old] * 18 + [new] * 18, size=0.1)
    found = look(built, TURN[0])
    off = (found.payload - new.payload.float()).abs().amax(-1)[found.covered]
    assert off.median() < 60 < (new.payload.float() - old.payload).abs().amax(-1).median()


@pytest.mark.parametrize("form", FORMS)
def test_a_map_from_its_tree_goes_on_as_before(form: str) -> None:
    views = [view(pose, n) for n, pose in enumerate(TURN[:6])]
    whole, copy = written(form, views), FORMS[form](0.05)
    half = written(form, views[:3]).tree()
    copy.check(half)
    copy.restore(half)
    for each in views[3:]:
        copy.write(each)
    assert same(whole.tree(), copy.tree())
    assert whole.bytes == copy.bytes > 0


@pytest.mark.parametrize("form", FORMS)
def test_a_tree_says_of_which_form_its_map_is(form: str) -> None:
    built = written(form, [view(pose, n) for n, pose in enumerate(TURN[:2])])
    built.reanchor(pose_of(20.0, (1.0, 0.0, 0.0)))
    tree = built.tree()
    found = map_of(tree)
    assert type(found) is type(built)
    assert same(found.tree(), tree)
    for damaged in ({}, {"size": tree["size"]}, tree | {"last": tree["last"][:-1]}):
        with pytest.raises(LociError, match=r"no map|damaged"):
            map_of(damaged)


@pytest.mark.parametrize("form", FORMS)
def test_another_frame_of_coordinates_changes_no_render(form: str) -> None:
    built = written(form, [view(pose, n, CUBE) for n, pose in enumerate(TURN)])
    before = look(built, TURN[4])
    change = pose_of(33.0, (1.0, -2.0, 0.5))
    built.reanchor(change)
    after = look(built, change @ TURN[4])
    assert torch.equal(before.covered, after.covered)
    torch.testing.assert_close(before.payload, after.payload, atol=1e-4, rtol=0)
    torch.testing.assert_close(before.depth, after.depth, atol=1e-4, rtol=0)
    moved = before.point @ change[:3, :3].T + change[:3, 3]
    torch.testing.assert_close(
        moved[before.covered], after.point[before.covered], atol=1e-4, rtol=0
    )
    # What is written there meets what was there.
    count = len(built.cells)
    new = view(TURN[4], 30, CUBE)
    built.write(replace(new, pose=change @ TURN[4]))
    assert len(built.cells) < 1.02 * count
    with pytest.raises(LociError, match="no rigid motion"):
        built.reanchor(2 * change)


@pytest.mark.parametrize("form", FORMS)
def test_in_a_new_episode_all_that_was_seen_is_older(form: str) -> None:
    built = written(form, [view(TURN[0], n) for n in range(3)])
    before = look(built, TURN[0], now=3)
    built.start_over(3)
    after = look(built, TURN[0], now=5)
    assert torch.equal(after.covered, before.covered)
    assert torch.equal(after.age[after.covered], before.age[before.covered] + 5)
    if isinstance(built, VoxelMap):  # the frames of that episode are not there to be found again
        assert (built.cells["ring"] == -1).all()
        built.write(view(TURN[0], 0))
        assert (built.cells["ring"][:, 0] == 0).float().mean() > 0.9


def cube_seen(built: SceneMap) -> float:
    """The share of white among the pixels where the cube was."""
    there = view(TURN[0], 0, CUBE).payload.amin(-1) == 250
    return float((look(built, TURN[0]).payload.amin(-1) > 200)[there].float().mean())


def test_what_is_gone_is_carved_away_and_averages_to_nothing_slowly() -> None:
    around = [pose_of(yaw, (0.1, 0.0, -0.2)) for yaw in (-12.0, -6.0, 0.0, 6.0, 12.0)]
    with_cube = [view(pose, n, CUBE) for n, pose in enumerate(around)]
    without = [view(pose, 5 + n) for n, pose in enumerate(around[:3])]
    for form, options, ghost in (
        ("voxels", {}, False), ("voxels", {"patience": 0}, True), ("tsdf", {}, True)
    ):
        built = written(form, with_cube, **options)
        assert cube_seen(built) > 0.9
        for each in without:
            built.write(each)
        assert (cube_seen(built) > 0.3) == ghost, (form, options)


def test_what_stays_is_not_carved_away() -> None:
    """Over many views of a still room, hardly a voxel that was seen is lost."""
    views = [view(pose, n, CUBE) for n, pose in enumerate(TURN * 3)]
    kept, carved = written("voxels", views, patience=0), written("voxels", views)
    assert len(carved.cells) > 0.97 * len(kept.cells)
    covered = [float(look(each, TURN[0]).covered.float().mean()) for each in (kept, carved)]
    assert covered[1] > covered[0] - 0.005 > 0.97


def test_a_budget_forgets_what_was_not_seen_for_longest() -> None:
    views = [view(pose, n) for n, pose in enumerate(TURN)]
    everything = written("voxels", views, size=0.1)
    few = written("voxels", views, size=0.1, limit=len(everything.cells) // 2)
    assert len(few.cells) == len(everything.cells) // 2
    assert few.bytes < 0.51 * everything.bytes
    early, late = (float(look(few, TURN[n]).covered.float().mean()) for n in (4, 23))
    assert early < 0.5 < 0.95 < late


def test_normals_face_who_saw_them() -> None:
    built = written("voxels", [GOOD])
    assert isinstance(built, VoxelMap)
    facing = built.normals()
    known = facing.norm(dim=1) > 0
    assert known.float().mean() > 0.9
    towards = GOOD.pose[:3, 3] - built.points()
    assert ((facing * towards).sum(1)[known] > 0).all()
    # The wall at the end of the room, well inside of its borders.
    x, y, z = built.points().unbind(1)
    wall = known & (z > 1.98) & (x.abs() < 1.2) & (y.abs() < 0.8)
    assert wall.any()
    torch.testing.assert_close(
        facing[wall], torch.tensor([[0.0, 0.0, -1.0]]).double().expand(int(wall.sum()), 3),
        atol=0.02, rtol=0,
    )


def test_the_ring_has_the_last_frames_some_apart() -> None:
    built = written("voxels", [view(TURN[0], n) for n in range(20)], ring=3, apart=4)
    assert (built.cells["ring"] == torch.tensor([16, 12, 8])).all()
    assert (built.cells["last"] == 19).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_nearest_point_wins_in_any_order(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    points = torch.rand(40, 3, generator=draw, dtype=torch.float64) * 2 - 1
    points[:, 2] += 2
    matrix, order = intrinsics_of(CAMERA), torch.randperm(40, generator=draw)
    pose = torch.eye(4, dtype=torch.float64)
    found = splat(points, 0.1, matrix, pose, 48, 64)
    again = splat(points[order], 0.1, matrix, pose, 48, 64)
    assert torch.equal(found.depth, again.depth)
    assert torch.equal(found.number[found.covered], order[again.number[again.covered]])
    # By hand, pixel by pixel.
    focal = float(matrix[0, 0])
    for row, column in [(7, 9), (24, 32), (40, 50)]:
        best = 0.0
        for x, y, z in points.tolist():
            u, v, half = x / z * focal + 32, y / z * focal + 24, 0.1 * focal / z / 2
            own = int(u // 1) == column and int(v // 1) == row
            inside = abs(column + 0.5 - u) <= half and abs(row + 0.5 - v) <= half
            if (own or inside) and (best == 0.0 or z < best):
                best = z
        assert float(found.depth[row, column]) == pytest.approx(best, abs=1e-6)


GOOD = view(TURN[0])
HOLE = GOOD.depth.clone()
HOLE[3, 4] = float("nan")


@pytest.mark.parametrize(("change", "line"), [
    ({"depth": HOLE}, "NaN or infinity in depth"),
    ({"depth": -GOOD.depth}, "negative depth"),
    ({"depth": 0 * GOOD.depth}, "unknown everywhere"),
    ({"intrinsics": -GOOD.intrinsics}, "these are no intrinsics of images of 48x64"),
    ({"intrinsics": 4 * GOOD.intrinsics}, "these are no intrinsics"),
    ({"payload": GOOD.payload[:10]}, "a payload of shape"),
    ({"payload": GOOD.payload.float()}, "a payload of shape"),
    ({"pose": 2 * GOOD.pose}, "no rigid motion"),
    ({"pose": pose_of(0, (1e7, 0.0, 0.0))}, "voxels from the map's origin"),
])
@pytest.mark.parametrize("form", FORMS)
def test_what_cannot_be_mapped_is_refused_and_changes_nothing(
    form: str, change: dict[str, Tensor], line: str
) -> None:
    built = written(form, [view(pose, n) for n, pose in enumerate(TURN[:3])])
    before = built.tree()
    with pytest.raises(LociError, match=line) as caught:
        built.write(replace(GOOD, **change))
    assert "\n" not in str(caught.value)
    assert same(before, built.tree())


def test_another_map_is_refused() -> None:
    built = written("voxels", [GOOD])
    for other, line in (
        (VoxelMap(0.1), r"voxels of 0.05 m, and this memory keeps some of 0.1 m"),
        (TSDF(0.05), "a map of another form"), (VoxelMap(0.05, channels=8), "another form"),
    ):
        with pytest.raises(LociError, match=line):
            other.check(built.tree())
    with pytest.raises(LociError, match="this is no map"):
        built.check({})


def test_a_map_stands_wherever_its_frames_begin() -> None:
    """Frames relative to the first one give the same picture as absolute ones."""
    poses = torch.stack(TURN[:6])
    apart = relative_to(poses[:1, ], poses[None])[0]
    built = written("voxels", [replace(view(p, n), pose=apart[n]) for n, p in enumerate(poses)])
    seen, truth = look(built, apart[2]), view(poses[2])
    assert seen.covered.float().mean() > 0.97
    assert ((seen.payload - truth.payload).abs().amax(-1) > 40).float().mean() < 0.05
