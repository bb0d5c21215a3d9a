"""Which frames saw what: walls hide, the whole chunk is covered, and nothing depends on order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxes import CUBE, HALF, HIGH, pose_of, view
from loci.errors import LociError
from loci.geometry import Camera, views
from loci.geometry.depth import intrinsics_of, project, unproject
from loci.geometry.scene_map import View
from loci.geometry.views import Choice, ViewIndex
from loci.worlds.render.geom import Geom
from loci.worlds.render.renderer import Scene

CAMERA = Camera(height=24, width=32, fov=70.0)
LENS = intrinsics_of(CAMERA)


def seen(pose: Tensor, frame: int, cube: Tensor | None = None) -> View:
    return view(pose, frame, cube, CAMERA)


def index_of(shots: Sequence[View], **options: float) -> ViewIndex:
    index = ViewIndex(**options)
    for shot in shots:
        index.add(shot)
    return index


def ask(rule: Callable[..., Choice], poses: Sequence[Tensor], count: int, **options: object):
    return rule(torch.stack(list(poses)), LENS, CAMERA.height, CAMERA.width, count, **options)


def rooms() -> Scene:
    """Two rooms beside each other, 4 m x 4 m, the wall between them at x = 0 and 0.1 m thick."""
    boxes = [((0.05, 1.3, 2.2), (x, 0.0, 0.0)) for x in (-4.05, 0.0, 4.05)]
    boxes += [((4.1, 1.3, 0.05), (0.0, 0.0, z)) for z in (-2.05, 2.05)]
    boxes += [((4.1, 0.05, 2.2), (0.0, y, 0.0)) for y in (-1.35, 1.35)]
    return Scene([Geom("box", size, np.array(at)) for size, at in boxes])


SCENE = rooms()


def shot(pose: Tensor, frame: int) -> View:
    depth = SCENE.render(pose.numpy()[None], CAMERA).depth[0]
    return View(torch.from_numpy(depth), torch.zeros(0), LENS, pose, frame)


@pytest.mark.parametrize("rule", ["cover", "vote"])
@pytest.mark.parametrize("aim", [90.0, -90.0], ids=["the wall", "what the wall hides"])
def test_a_camera_behind_a_wall_counts_for_nothing(rule: str, aim: float) -> None:
    """Its view holds all that is asked for, and more of it than that of the right one."""
    right = shot(pose_of(aim - 15.0, (-2.0, 0.0, 0.3)), 0)
    behind = [shot(pose_of(yaw, (x, 0.0, 0.0)), n) for n, (yaw, x) in enumerate(
        [(-90.0, 3.0), (-90.0, 1.5), (-80.0, 2.5), (90.0, 0.3)], start=1
    )]
    target = [pose_of(aim + turn, (-2.0, 0.0, 0.0)) for turn in (-5.0, 5.0)]
    found = ask(getattr(index_of([right, *behind]), rule), target, 4)
    assert found.frames == [0]
    assert 0.5 < found.covered <= found.known
    # Where nobody was, nothing is shown, and no frame is better than none.
    nothing = ask(getattr(index_of(behind), rule), target, 4)
    assert nothing.frames == []
    assert nothing.covered == 0


def exact(shots: Sequence[View], targets: Sequence[View], cube: Tensor) -> Tensor:
    """Which pixels of the targets each of the shots shows, (N, pixels): by rays through the room,
    of which a cube may stop some."""
    points = torch.cat([
        unproject(t.depth[None].double(), LENS[None], t.pose[None]).flatten(0, 2) for t in targets
    ])
    shown = []
    for each in shots:
        where, z = project(points, LENS, each.pose)
        inside = (z > 0) & (where >= 0).all(1)
        inside &= (where < torch.tensor([CAMERA.width, CAMERA.height])).all(1)
        start = each.pose[:3, 3]
        ray = points - start
        a, b = ((cube + sign * HALF - start) / ray for sign in (-1, 1))
        enter, leave = torch.minimum(a, b).amax(1), torch.maximum(a, b).amin(1)
        shown.append(inside & ~((enter < leave) & (enter > 0) & (enter < 0.999)))
    return torch.stack(shown)


def greedy(shown: Tensor, count: int) -> list[int]:
    """The best frame by frame, of equals the latest, as long as one adds anything."""
    picks: list[int] = []
    for _ in range(count):
        have = shown[picks].any(0)
        gains = [int((row & ~have).sum()) for row in shown]
        best = max(range(len(gains)), key=lambda n: (gains[n], n))
        if gains[best] == 0:
            break
        picks.append(best)
    return picks


PLACES = st.tuples(
    st.integers(0, 23).map(lambda n: 15.0 * n),
    st.tuples(st.floats(-0.8, 0.8), st.just(0.0), st.floats(-1.2, -0.2)),
)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    stands=st.lists(PLACES, min_size=3, max_size=8), aim=PLACES, turn=st.sampled_from([5.0, 20.0])
)
def test_it_shows_what_greedy_choice_with_exact_sight_shows(
    stands: list[tuple[float, tuple[float, float, float]]],
    aim: tuple[float, tuple[float, float, float]], turn: float,
) -> None:
    shots = [seen(pose_of(*stand), n, CUBE) for n, stand in enumerate(stands)]
    targets = [seen(pose_of(aim[0] + turn * n, aim[1]), 0, CUBE) for n in range(2)]
    shown = exact(shots, targets, CUBE)
    found = ask(index_of(shots).cover, [t.pose for t in targets], 4, least=0.01)
    best = greedy(shown, 4)
    share = shown.double().mean(1)
    for count in range(1, 5):
        have = shown[found.frames[:count]].any(0).double().mean()
        assert have >= shown[best[:count]].any(0).double().mean() - 0.05
    assert all(share[frame] > 0 for frame in found.frames)
    assert found.covered == pytest.approx(float(have), abs=0.1)


def test_of_equal_frames_the_latest_is_chosen_whatever_their_order() -> None:
    shots = [seen(pose_of(0.0), n) for n in (4, 9, 7)]
    for order in itertools.permutations(shots):
        assert ask(index_of(order).cover, [pose_of(3.0)], 3).frames == [9, 7, 4]


RING = [seen(pose_of(30.0 * n, (0.1, 0.0, -0.2)), n) for n in range(12)]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(order=st.permutations(range(12)), aim=st.floats(0, 360))
def test_frames_may_come_in_any_order(order: list[int], aim: float) -> None:
    first, second = index_of(RING), index_of([RING[n] for n in order])
    target = [pose_of(aim), pose_of(aim + 40.0)]
    for rule in ("cover", "vote"):
        assert ask(getattr(first, rule), target, 3) == ask(getattr(second, rule), target, 3)
    assert first.revealed(RING[3]) == second.revealed(RING[3]) == 0


def test_the_whole_chunk_is_covered_and_not_one_frame_after_the_other() -> None:
    """Two frames that show a half each are worse than the one between that shows most of both."""
    index = index_of([seen(pose_of(yaw), n) for n, yaw in enumerate((-40.0, 0.0, 40.0))])
    target = [pose_of(-15.0), pose_of(15.0)]
    assert ask(index.cover, target, 1).frames == [1]
    whole = ask(index.cover, target, 3)
    assert whole.frames[0] == 1
    assert sorted(whole.frames) == [0, 1, 2]
    assert whole.covered == pytest.approx(whole.known, abs=0.02)
    # What is there already is neither taken again nor counted again.
    rest = ask(index.cover, target, 3, taken=[1, 77])
    assert sorted(rest.frames) == [0, 2]
    assert rest.covered == whole.covered
    assert ask(index.cover, target, 3, taken=[0, 1, 2]).frames == []
    # The others add about a seventh of the pixels each, and show less than two thirds of them.
    assert ask(index.cover, target, 3, least=0.7).frames == [1]


def test_places_that_are_left_go_to_the_frames_that_show_most_of_the_chunk() -> None:
    """One frame shows all; those beside it show it again, and one that looks away never."""
    yaws = (0.0, 30.0, -10.0, 180.0, 5.0)
    index = index_of([seen(pose_of(yaw), n) for n, yaw in enumerate(yaws)])
    found = ask(index.cover, [pose_of(0.0)], 9, least=0.05)
    assert found.frames == [0, 4, 2, 1]
    assert ask(index.cover, [pose_of(0.0)], 2, least=0.05).frames == [0, 4]
    # What is taken from the start is not taken again; it shows all, so that the rest fills up.
    assert ask(index.cover, [pose_of(0.0)], 9, taken=[0], least=0.05).frames == [4, 2, 1]


def test_many_frames_are_thinned_and_the_choice_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = [pose_of(12.0 * n, (0.2 * math.sin(n), 0.0, -0.3)) for n in range(60)]
    index = index_of([seen(pose, n, CUBE) for n, pose in enumerate(turn)])
    target = [pose_of(20.0, (0.3, 0.0, -0.8)), pose_of(75.0, (0.3, 0.0, -0.8))]
    asked: list[int] = []
    saw = index.frames.saw

    def counted(rows: Tensor, points: Tensor, facing: Tensor) -> Tensor:
        asked.append(len(rows) * len(points))
        return saw(rows, points, facing)

    monkeypatch.setattr(index.frames, "saw", counted)
    everything, work = ask(index.cover, target, 4), sum(asked)
    for name, value in (("FEW", 12), ("POINTS", 24), ("FRAMES", 3)):
        monkeypatch.setattr(views, name, value)
    asked.clear()
    thinned = ask(index.cover, target, 4)
    assert sum(asked) < 0.5 * work
    assert thinned.covered > everything.covered - 0.03
    assert thinned.known == everything.known


def test_a_frame_that_looks_away_is_never_looked_at() -> None:
    index = index_of(RING)
    wall = seen(pose_of(0.0), 0)
    points = unproject(wall.depth[None].double(), LENS[None], wall.pose[None])[0, 10:14, 14:18]
    kept = index.frames.towards(points.reshape(-1, 3))
    shown = index.frames.saw(torch.arange(12), points.reshape(-1, 3), torch.zeros(16, 3))
    assert not (shown.any(1) & ~kept).any()
    assert shown.any(1).sum() <= kept.sum() < 6


def test_surfels_vote_as_vmem_has_it() -> None:
    """Near surfels weigh more; neighbours of a frame that is taken wait until others had a turn."""
    # On the left is the cube, 0.7 m away, on the right the wall, 2 m away, and more of it.
    here = (0.45, 0.6, 0.0)
    near, far, target = pose_of(-50.0, here), pose_of(40.0, here), [pose_of(0.0, here)]
    for first, second, best in ((near, far, [0, 1]), (far, near, [1, 0])):
        index = index_of([seen(first, 0, CUBE), seen(second, 1, CUBE)])
        assert ask(index.vote, target, 2).frames == best
    yaws = (0.0, 1.0, 2.0, 40.0, 41.0)
    index, target = index_of([seen(pose_of(y), n) for n, y in enumerate(yaws)]), [pose_of(1.0)]
    best, other = ask(index.vote, target, 2).frames
    assert best < 3 <= other
    # Neighbours of what is there anyway are passed over, too.
    assert ask(index.vote, target, 1, taken=[1]).frames[0] >= 3
    # Where there are too few, neighbours are taken after all.
    assert sorted(ask(index.vote, target, 9).frames) == [0, 1, 2, 3, 4]
    assert sorted(ask(index.vote, target, 9, least=0.8).frames) == [0, 1, 2]
    assert ask(index.vote, [pose_of(180.0)], 9).frames == []


def test_what_a_frame_reveals() -> None:
    index = ViewIndex()
    first = seen(pose_of(0.0, (0.1, 0.0, -0.2)), 0)
    assert index.revealed(first) == 1
    index.add(first)
    assert index.revealed(first) == 0
    # The walls are where voxels meet: seen from elsewhere they are still the same walls.
    assert torch.allclose((HIGH / 0.2).round() * 0.2, HIGH)
    nearer = seen(pose_of(2.0, (0.0, 0.1, 0.1)), 1)
    assert index.revealed(nearer) < 0.02
    shares = [index.revealed(seen(pose_of(yaw, (0.1, 0.0, -0.2)), 1)) for yaw in (15, 35, 60, 180)]
    assert shares == sorted(shares)
    assert shares[1] == pytest.approx(0.5, abs=0.12)
    assert shares[3] > 0.9
    assert len(index) == 1


def test_large_images_are_thinned() -> None:
    large = Camera(height=144, width=192, fov=CAMERA.fov)
    small, big = ViewIndex(side=8), ViewIndex(side=8)
    for n, yaw in enumerate((0.0, 50.0, 100.0)):
        small.add(seen(pose_of(yaw), n))
        big.add(view(pose_of(yaw), n, camera=large))
    target = [pose_of(20.0), pose_of(40.0)]
    assert ask(small.cover, target, 3).frames == ask(big.cover, target, 3).frames == [1, 0, 2]
    assert abs(big.map.bytes / small.map.bytes - 1) < 0.2
    # Pixels that fall between those that are looked at count where there are no others.
    depth = torch.zeros(144, 192)
    depth[1, 1] = 1.0
    big.add(replace(view(pose_of(180.0), 3, camera=large), depth=depth))
    assert len(big) == 4


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_index_from_its_tree_goes_on_as_before() -> None:
    whole, copy = index_of(RING), index_of(RING[3:5])
    half = index_of(RING[:6]).tree()
    kept = {name: part.clone() for name, part in half.items()}
    copy.check(half)
    copy.restore(half)
    for each in RING[6:]:
        copy.add(each)
    assert same(whole.tree(), copy.tree())
    assert same(half, kept)
    assert whole.bytes == copy.bytes > 0
    target = [pose_of(100.0), pose_of(130.0)]
    assert ask(whole.cover, target, 4) == ask(copy.cover, target, 4)
    empty = ViewIndex()
    empty.check(ViewIndex().tree())
    assert ask(empty.cover, target, 4) == Choice([], 0.0, 0.0) == ask(empty.vote, target, 4)


def damaged(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    tree = index_of(RING[:3]).tree()
    return tree | {name: change(tree[name])}


@pytest.mark.parametrize(("tree", "line"), [
    ({}, "this is no map"),
    (damaged("map.keys", lambda x: x.flip(0)), "a damaged one"),
    (damaged("frames.keys", lambda x: x.flip(0)), "a damaged one"),
    (damaged("frames.keys", lambda x: x - 1), "damaged frames"),
    (damaged("frames.near", lambda x: x + 1), "damaged frames"),
    (damaged("frames.near", lambda x: x * float("nan")), "damaged frames"),
    (damaged("frames.far", lambda x: x[:, 1:]), "a damaged one"),
    (damaged("frames.far", lambda x: x.float()), "a damaged one"),
    (damaged("frames.lens", lambda x: -x), "damaged frames"),
    (damaged("frames.pose", lambda x: 2 * x), "no rigid motion"),
    (ViewIndex(voxel=0.1).tree(), "voxels of 0.1 m, and this memory keeps some of 0.2 m"),
    (index_of(RING[:1], side=8).tree(), "of another form"),
])
def test_a_damaged_index_is_refused(tree: dict[str, Tensor], line: str) -> None:
    with pytest.raises(LociError, match=line) as caught:
        ViewIndex().check(tree)
    assert "\n" not in str(caught.value)


HOLE = RING[1].depth.clone()
HOLE[3, 4] = float("nan")


@pytest.mark.parametrize(("change", "line"), [
    ({"frame": 0}, "frame 0 is there already"),
    ({"frame": -1}, "number frames from 0"),
    ({"depth": HOLE}, "NaN or infinity in depth"),
    ({"depth": -RING[1].depth}, "negative depth"),
    ({"depth": 0 * RING[1].depth}, "unknown everywhere"),
    ({"intrinsics": -LENS}, "these are no intrinsics of images of 24x32"),
    ({"pose": 2 * RING[1].pose}, "no rigid motion"),
    ({"pose": pose_of(0, (1e7, 0.0, 0.0))}, "voxels from the map's origin"),
])
def test_what_is_no_view_is_refused_and_changes_nothing(
    change: dict[str, object], line: str
) -> None:
    index = index_of(RING[:1])
    before = index.tree()
    with pytest.raises(LociError, match=line) as caught:
        index.add(replace(RING[1], **change))
    assert "\n" not in str(caught.value)
    assert same(before, index.tree())


def test_what_is_no_target_is_refused() -> None:
    index = index_of(RING[:1])
    with pytest.raises(LociError, match="no rigid motion"):
        ask(index.cover, [2 * RING[0].pose], 1)
    with pytest.raises(LociError, match="these are no intrinsics"):
        index.vote(RING[0].pose[None], LENS, 8, 8, 1)
    with pytest.raises(LociError, match="depth images of 1x1"):
        ViewIndex(side=1)


def test_another_gauge_changes_no_choice() -> None:
    index = index_of(RING)
    target = [pose_of(100.0), pose_of(130.0)]
    before = ask(index.cover, target, 4), ask(index.vote, target, 4)
    change = pose_of(33.0, (1.0, -2.0, 0.5))
    index.reanchor(change)
    moved = [change @ pose for pose in target]
    assert (ask(index.cover, moved, 4), ask(index.vote, moved, 4)) == before
    # What is added in the new gauge meets what was there.
    again = replace(RING[4], pose=change @ RING[4].pose, frame=20)
    assert index.revealed(again) < 0.01
    index.add(again)
    assert ask(index.cover, [again.pose], 1).frames == [20]
