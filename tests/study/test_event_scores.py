"""What is called kept, updated, ghost, duplicate and lost, by videos of which it is known."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from fake_worlds import FakeWorld, fake_entry, last_view, nearest_view
from loci.data.cases import Case
from loci.data.episodes import EpisodeCache
from loci.data.truth import Truth, prepare
from loci.geometry import Camera
from loci.study.rooms.branches import BRANCHES, STILL
from loci.study.rooms.events import OUTCOMES, score_events
from loci.study.rooms.rollouts import rollout
from loci.study.rooms.suite import Rooms
from loci.study.run import run, write
from loci.study.store import Store
from loci.worlds.rooms.courses import LOOP180, Course
from loci.worlds.rooms.events import EVENT_COURSES, HAPPENINGS

# (what, whether it happens): what a video is called that shows each state.
MOVED = {"both": "duplicate", "neither": "lost"}
EXPECTED = {
    ("moved", False): {"old": "kept", "new": "ghost"} | MOVED,
    ("moved", True): {"old": "ghost", "new": "updated"} | MOVED,
    ("rolled", False): {"old": "kept", "new": "ghost"} | MOVED,
    ("rolled", True): {"old": "ghost", "new": "updated"} | MOVED,
    ("taken", False): {"old": "kept", "new": "lost"},
    ("taken", True): {"old": "ghost", "new": "updated"},
    ("added", False): {"old": "kept", "new": "ghost"},
    ("added", True): {"old": "ghost", "new": "updated"},
    ("recoloured", False): {"old": "kept", "new": "ghost", "neither": "lost"},
    ("recoloured", True): {"old": "ghost", "new": "updated", "neither": "lost"},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EpisodeCache:
    return EpisodeCache(tmp_path_factory.mktemp("episodes"))


def truth_of(cache: EpisodeCache, what: str, known: str) -> Truth:
    course = Course(f"{what}-{known}", "loop180", event=(what, known))
    return prepare(Case("heldout", 3, course), cache, Camera(), groups=())


def named(truth: Truth, video: np.ndarray) -> list[str]:
    """The outcomes of a video; the share of what is right has to agree."""
    assert truth.event is not None
    known, scores = truth.event.known, score_events(truth, video).metrics
    found = [n for n in OUTCOMES if scores.get(f"event_{n}_{known}") and
             scores[f"event_{n}_{known}"].total]
    right = scores[f"event_right_{truth.event.change.what}"]
    assert right.count == 1
    assert right.total == (found in (["kept"], ["updated"]))
    assert sum(n.startswith("event_") for n in scores) == len(OUTCOMES)
    return found


@pytest.mark.parametrize(
    ("what", "known"), [*itertools.product(HAPPENINGS, ["none", "seen"]), ("moved", "told")]
)
def test_each_state_is_called_what_it_is(cache: EpisodeCache, what: str, known: str) -> None:
    truth = truth_of(cache, what, known)
    assert truth.event is not None
    names, right = EXPECTED[what, known != "none"], "kept" if known == "none" else "updated"
    assert named(truth, truth.rgb) == [right]
    assert set(names) == set(truth.event.states)
    for state, name in names.items():
        video = truth.event.change.states[state].render(truth.poses).rgb
        assert named(truth, video) == [name]
        # Without an exact picture too.
        noise = np.random.default_rng(0).integers(-25, 26, video.shape)
        rough = np.clip(video + noise, 0, 255).astype(np.uint8)
        assert named(truth, rough) == [name]


def test_the_rest_of_the_room_is_as_it_was(cache: EpisodeCache) -> None:
    course = Course("moved-told", "loop180", event=("moved", "told"))
    plain = prepare(Case("heldout", 3, LOOP180), cache, Camera())
    changed = prepare(Case("heldout", 3, course), cache, Camera())
    assert changed.event is not None
    assert plain.event is None
    assert changed.event.sentence
    change = changed.event.change
    mine = {change.index, change.free}
    assert {t.index for t in changed.returns} == {t.index for t in plain.returns} - mine
    for thing in changed.returns:
        # Its own rendering comes first, in the room as it has become.
        assert np.array_equal(thing.renderings[0], changed.rgb[thing.frame])
        one = changed.event.room(thing.frame).render(changed.poses[thing.frame :][:1]).rgb[0]
        assert np.array_equal(one, thing.renderings[0])
    assert not np.array_equal(changed.rgb[changed.event.frame], plain.rgb[changed.event.frame])


def test_a_case_in_which_nothing_can_happen_counts_for_nothing(cache: EpisodeCache) -> None:
    course = Course("rolled-seen-loop180", "loop180", event=("rolled", "seen"))
    truth = prepare(Case("open", 3, course), cache, Camera(), groups=())
    assert truth.event is None
    assert list(score_events(truth, truth.rgb).metrics) == ["psnr"]


def test_what_brings_back_the_past_by_pose_alone_shows_ghosts(cache: EpisodeCache) -> None:
    """The nearest view, on a way that retraces itself, is from before the change."""
    branch = BRANCHES["events"]
    cases = branch.cases(2, 0)
    assert [case.course for case in cases] == list(EVENT_COURSES[:2])
    truths = [prepare(c, cache, Camera(), observe=branch.observe, groups=()) for c in cases]
    assert [t.event.known for t in truths if t.event] == ["none", "seen"]
    videos = rollout(FakeWorld(nearest_view), truths, 0)
    assert [named(t, v) for t, v in zip(truths, videos, strict=True)] == [["kept"], ["ghost"]]


def test_the_branch_is_played_where_it_is_asked_for(tmp_path: Path) -> None:
    assert BRANCHES["events"].courses == EVENT_COURSES
    assert Rooms("ground").conditions == STILL
    assert "events" not in STILL
    suite = Rooms("geometry", 2, 0, [fake_entry("none", last_view)], ("events",))
    assert [key.split("/")[1] for key in suite.keys("events")] == [
        course.name for course in EVENT_COURSES[:2]
    ]


@pytest.mark.slow
def test_a_study_of_events_has_its_shares(tmp_path: Path) -> None:
    suite = Rooms("geometry", 15, 0, [fake_entry("none", last_view)], ("events",))
    results = write(run(suite, Store(tmp_path)), tmp_path)
    found = {row: branches["events"] for row, branches in results["rows"].items()}
    for row in ("codec", "ground-truth"):
        for right in ("kept_none", "updated_seen", "updated_told"):
            assert found[row][f"event_{right}"]["mean"] == 1.0
            assert found[row][f"event_{right}"]["n"] == 5
    for known in ("none", "seen", "told"):
        shares = [s["mean"] for name, s in found["none"].items() if name.endswith(f"_{known}")]
        assert sum(shares) == pytest.approx(1.0)
