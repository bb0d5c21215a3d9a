"""Metrics against numbers worked out by hand or by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from loci.data.cases import Case, make_cases
from loci.data.episodes import EpisodeCache, render_episode
from loci.data.truth import Truth, prepare
from loci.errors import LociError
from loci.geometry import Camera
from loci.seeds import chunk_noise
from loci.study.rooms import metrics
from loci.study.rooms.scores import score_loop, score_recall
from loci.worlds.render.geom import Geom
from loci.worlds.render.renderer import Scene
from loci.worlds.render.visibility import DEPTH_TOLERANCE, seen_before
from loci.worlds.rooms.courses import CIRCLE, LOOP180, LOOP360
from loci.worlds.rooms.returns import MIN_AREA
from loci.worlds.rooms.room import UPRIGHT, camera_pose, candidates, sample_room

SMALL = Camera(height=12, width=12)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    case = make_cases("heldout", (LOOP180,), 1, 0)[0]
    return prepare(case, EpisodeCache(tmp_path_factory.mktemp("episodes")), Camera())


def test_psnr_by_hand() -> None:
    a = np.full((2, 8, 8, 3), 100, np.uint8)
    b = a.copy()
    b[0] += 10
    # Half of the pixels are off by 10: the mean squared error is 50.
    assert metrics.psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 50))
    mask = np.zeros((2, 8, 8), bool)
    mask[0, 0, 0] = True
    assert metrics.psnr(a, b, mask) == pytest.approx(10 * np.log10(255**2 / 100))
    assert metrics.psnr(a, b, np.zeros_like(mask)) is None
    assert metrics.psnr(a, a) == metrics.CEILING_DB
    with pytest.raises(LociError, match="shape"):
        metrics.psnr(a, b[:1])


def test_psnr_counts_pixels_and_not_frames() -> None:
    a, b = np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    b[0, 0, 0] = 20
    mask = np.zeros((2, 4, 4), bool)
    mask[0, 0, 0] = mask[1] = True
    assert metrics.psnr(a, b, mask) == pytest.approx(10 * np.log10(255**2 / (400 / 17)))


def test_ssim_of_flat_images_by_hand() -> None:
    a, b = np.full((1, 9, 9, 3), 51, np.uint8), np.full((1, 9, 9, 3), 102, np.uint8)
    # No variance: only the luminance term (2 ab + c) / (a^2 + b^2 + c) of grey 0.2 and 0.4 stays.
    c = 0.01**2
    assert metrics.ssim(a, b) == pytest.approx((2 * 0.08 + c) / (0.04 + 0.16 + c), abs=1e-6)
    assert metrics.ssim(a, a) == pytest.approx(1.0)


def test_guards_expose_blank_and_still_pictures(truth: Truth) -> None:
    blank, still = np.full_like(truth.rgb, 128), np.broadcast_to(truth.rgb[:1], truth.rgb.shape)
    assert metrics.detail(truth.rgb, truth.rgb) == pytest.approx(1.0)
    assert metrics.detail(blank, truth.rgb) == 0.0
    assert metrics.movement(truth.rgb, truth.rgb) == pytest.approx(1.0)
    assert metrics.movement(still, truth.rgb) == 0.0
    assert score_loop(truth, blank).metrics["pair_margin"].total == 0.0
    assert score_loop(truth, truth.rgb).metrics["pair_psnr"].total == metrics.CEILING_DB
    assert score_loop(truth, truth.rgb).metrics["pair_margin"].total > 20


def _by_hand(depth: np.ndarray, poses: np.ndarray, observed: int, camera: Camera) -> np.ndarray:
    """Reprojection, one pixel and one past frame at a time."""
    h, w, f = camera.height, camera.width, camera.focal
    seen = np.zeros((len(poses) - observed, h, w), bool)
    for j in range(observed, len(poses)):
        for v in range(h):
            for u in range(w):
                z = float(depth[j, v, u])
                at = np.array([(u + 0.5 - w / 2) / f * z, (v + 0.5 - h / 2) / f * z, z, 1.0])
                point = poses[j] @ at
                for i in range(observed):
                    x, y, d, _ = np.linalg.inv(poses[i]) @ point
                    if d <= 1e-6:
                        continue
                    column = int(np.floor(x / d * f + w / 2))
                    line = int(np.floor(y / d * f + h / 2))
                    if 0 <= column < w and 0 <= line < h:
                        close = abs(depth[i, line, column] - d) <= DEPTH_TOLERANCE * d
                        seen[j - observed, v, u] |= close
    return seen


def test_seen_before_is_reprojection_by_exact_depth() -> None:
    episode = render_episode("heldout", 5, "explore", SMALL)
    frames = [0, 2, 4, 5, 7, 9]
    depth, poses = episode.depth[frames], episode.poses[frames]
    found = seen_before(depth, poses, 3, SMALL)
    assert 0.1 < found.mean() < 0.9
    # Both round a coordinate down; the one pixel on a border may fall to either side.
    assert (found != _by_hand(depth, poses, 3, SMALL)).sum() <= 1


def test_what_an_object_hid_is_not_seen() -> None:
    """A wall with a box before it: stepping aside reveals the wall behind the box."""
    wall = Geom("box", (9, 9, 0.1), np.array([0, -1.3, 4.0]), np.eye(3))
    box = Geom("box", (0.3, 0.3, 0.3), np.array([0, -1.3, 2.0]), UPRIGHT)
    camera = Camera(height=32, width=32)
    poses = np.stack([camera_pose(0, 0, 0), camera_pose(0.8, 0, 0)])
    views = Scene([wall, box]).render(poses, camera)
    seen = seen_before(views.depth, poses, 1, camera)[0]
    # On the middle line, the shadow of the box on the wall spans x = -0.3..0.3 times 3.9 / 1.7.
    x = (np.arange(32) + 0.5 - 16) / camera.focal * 3.9 + 0.8
    on_wall = views.depth[1, 16] > 3
    hidden = on_wall & (np.abs(x) < 0.3 * 3.9 / 1.7 - 0.15)
    shown = on_wall & (np.abs(x) > 0.3 * 3.9 / 1.7 + 0.15) & (x < 2.0)
    assert hidden.sum() >= 2
    assert shown.sum() >= 5
    assert not seen[16][hidden].any()
    assert seen[16][shown].all()


def test_a_mirrored_path_shows_nothing_new_and_a_circle_does(truth: Truth) -> None:
    assert truth.seen.all()
    case = Case("heldout", truth.case.seed, CIRCLE)
    episode = render_episode("heldout", truth.case.seed, "loop360", SMALL)
    seen = seen_before(episode.depth[:33], episode.poses[:33], CIRCLE.out or 0, SMALL)
    # 60 degrees of view: all of the first new frame but its leading edge, nothing at 270 degrees,
    # everything when the circle closes.
    assert case.course.frames == 33
    assert seen[0].mean() > 0.7
    assert seen[7].mean() == 0.0
    assert seen[-1].all()


def test_identity_knows_the_truth_and_every_impostor(truth: Truth) -> None:
    room = sample_room(truth.case.seed, "heldout")
    assert {p.group for p in truth.returns} == {"first", "later"}
    for probe in truth.returns:
        real = truth.rgb[probe.frame]
        assert metrics.nearest_candidate(real, probe.renderings, probe.region)[0] == 0
        choices = candidates(room, probe.index)
        for number in (1, 4, 7):
            other = room.with_object(probe.index, choices[number])
            frame = other.render(truth.poses[probe.frame][None]).rgb[0]
            winner, errors = metrics.nearest_candidate(frame, probe.renderings, probe.region)
            assert winner == number
            assert errors[number] == 0.0


def test_a_larger_region_has_the_same_winner(truth: Truth) -> None:
    generator = np.random.default_rng(0)
    for probe in truth.returns:
        frame = generator.integers(0, 256, truth.rgb.shape[1:], np.uint8)
        whole = np.ones_like(probe.region)
        small = metrics.nearest_candidate(frame, probe.renderings, probe.region)[1]
        large = metrics.nearest_candidate(frame, probe.renderings, whole)[1]
        assert small.argmin() == large.argmin()
        rest = large * whole.sum() - small * probe.region.sum()
        assert rest == pytest.approx(np.full(8, rest[0]), rel=1e-4)


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-8, 8), (2, 2)])
def test_best_shift_finds_where_the_object_went(shift: tuple[int, int]) -> None:
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 256, (40, 40, 3)).astype(np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[15:25, 12:20] = True
    moved = np.roll(truth, (shift[1], shift[0]), axis=(0, 1))
    assert metrics.best_shift(moved, truth, mask) == shift
    assert metrics.in_place(shift) == (max(map(abs, shift)) <= 2)


def test_best_shift_does_not_reward_a_blank_frame() -> None:
    truth = np.random.default_rng(2).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[15:25, 12:20] = True
    assert not metrics.in_place(metrics.best_shift(np.full_like(truth, 90), truth, mask))
    with pytest.raises(LociError, match="empty mask"):
        metrics.best_shift(truth, truth, np.zeros_like(mask))


def test_best_shift_at_the_border_leaves_out_what_is_cut_off() -> None:
    truth = np.random.default_rng(3).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[30:, 32:] = True
    moved = np.full_like(truth, 7)
    moved[32:, 34:] = truth[30:38, 32:38]
    assert metrics.best_shift(moved, truth, mask) == (2, 2)


def test_probes_left_the_view_and_came_back(truth: Truth) -> None:
    episode = render_episode("heldout", truth.case.seed, "loop180")
    assert truth.returns
    for probe in truth.returns:
        area = (episode.identity == probe.index).sum(axis=(1, 2))
        assert area[truth.out - 1] == 0
        assert probe.frame >= truth.out
        assert area[probe.frame] >= MIN_AREA
        assert (area[0] >= MIN_AREA) == (probe.group == "first")
        assert probe.group == "first" or (area[0] == 0 and area[: truth.out].max() >= MIN_AREA)
        assert probe.renderings.shape[0] == len(set(probe.labels)) == 8
        assert (probe.region | ~probe.mask).all()


def test_the_truth_scores_full_marks_and_noise_does_not(truth: Truth) -> None:
    best = score_recall(truth, truth.rgb).metrics
    assert best["identity_later"].total == best["identity_later"].count > 0
    assert best["layout_later"].total == best["layout_later"].count
    assert best["psnr_seen"].total == metrics.CEILING_DB
    assert best["psnr_revealed"].count == 0
    noise = np.random.default_rng(4).integers(0, 256, truth.rgb.shape).astype(np.uint8)
    worst = score_recall(truth, noise).metrics
    assert worst["identity_later"].total < worst["identity_later"].count
    assert worst["psnr_seen"].total < 12


def test_cases_and_noise_depend_on_the_seed_and_the_case_alone() -> None:
    courses = (LOOP180, LOOP360)
    few, many = make_cases("open", courses, 3, 7), make_cases("open", courses, 9, 7)
    assert few == many[:3]
    assert [c.course for c in few] == [LOOP180, LOOP360, LOOP180]
    assert len({c.seed for c in many}) == 9
    assert not {c.seed for c in many} & {c.seed for c in make_cases("open", (LOOP180,), 9, 8)}
    key, shape = "heldout/loop180/1", (4, 8, 8, 8)
    a = chunk_noise(0, key, 4, shape)
    assert (a == chunk_noise(0, key, 4, shape)).all()
    for other in ((1, key, 4), (0, "heldout/loop180/2", 4), (0, key, 5)):
        assert (a != chunk_noise(*other, shape)).any()
    assert abs(float(a.mean())) < 0.1
    assert abs(float(a.std()) - 1) < 0.1
    with pytest.raises(LociError, match="1 or more"):
        make_cases("open", (LOOP180,), 0, 0)
