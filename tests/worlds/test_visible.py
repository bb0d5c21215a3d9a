"""What each past frame shows of a later one, and the best frames by it."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.geometry import Camera
from loci.worlds.render.visibility import best_frames, covered, seen_before, visibility
from loci.worlds.rooms.paths import make_path
from loci.worlds.rooms.room import sample_room

CAMERA = Camera(height=24, width=24)


def test_frame_by_frame_it_is_what_was_seen_before():
    room = sample_room(2, "heldout")
    path = make_path("explore", room.start, 2, room)
    depth = room.render(path.poses, CAMERA).depth
    table = visibility(depth, path.poses, 9, CAMERA)
    assert table.shape == (33, 24, 24, 24)
    for observed in (9, 17, 30):
        together = seen_before(depth, path.poses, observed, CAMERA)
        np.testing.assert_array_equal(table[:observed, observed - 9 :].any(axis=0), together)
    for n, t in itertools.product(range(33), range(9, 33)):
        assert n < t or not table[n, t - 9].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(0, 5), st.integers(0, 10**6))
def test_the_best_frames_are_taken_one_by_one(frames, count, seed):
    shown = np.random.default_rng(seed).uniform(size=(frames, 2, 3, 4)) < 0.25
    picks, have = best_frames(shown, count), [0, frames - 1]
    assert len(picks) == min(count, max(frames - 2, 0))
    for pick in picks:
        rest = [n for n in range(1, frames - 1) if n not in have]
        assert pick == max(rest, key=lambda n: (covered(shown, [*have, n]), n))
        have.append(pick)


def test_greedy_is_near_the_best_set():
    """Nemhauser, Wolsey and Fisher (1978): what it adds is at least 63 % of what can be added."""
    for seed in range(10):
        shown = np.random.default_rng(seed).uniform(size=(9, 60)) < 0.2
        floor, greedy = covered(shown, [0, 8]), covered(shown, [0, 8, *best_frames(shown, 3)])
        best = max(covered(shown, [0, 8, *s]) for s in itertools.combinations(range(1, 8), 3))
        assert (1 - 1 / np.e) * (best - floor) <= greedy - floor <= best - floor
