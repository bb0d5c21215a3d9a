"""Events: what happens while nobody looks, exactly, and only as far as it is to be seen."""

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.geometry import Camera
from loci.worlds.rooms.courses import LOOP180, Course
from loci.worlds.rooms.events import (
    EVENT_COURSES,
    HAPPENINGS,
    KNOWN,
    SLOWING,
    Event,
    find_event,
    rolled,
)
from loci.worlds.rooms.paths import Path, make_path
from loci.worlds.rooms.returns import MIN_AREA
from loci.worlds.rooms.room import sample_room

# A full turn has twice the frames, and shows no more.
COURSES = {
    course.name: replace(course, path=course.path.replace("loop360", "loop180"))
    for course in EVENT_COURSES
}
NAMES = list(COURSES)


@functools.cache
def found(name: str) -> tuple[Event, Path]:
    course = COURSES[name]
    room = sample_room(3, "heldout")
    way = make_path(course.path, room.start, 3, room)
    event = find_event(room, course, way.poses, way.out, Camera())
    assert event is not None
    return event, way


def same(a: object, b: object) -> bool:
    """Whether two views are the same, pixel by pixel."""
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("rgb", "depth", "identity"))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_seen_as_far_as_it_is_to_be(name: str) -> None:
    event, way = found(name)
    change, out, poses = event.change, way.out, way.poses
    views = event.render(poses)
    plain = change.before.render(poses)
    differs = (views.rgb != plain.rgb).any(axis=-1).sum(axis=(1, 2))
    assert event.frame >= out
    # The places are out of view when the observed frames end, and nobody has told what is there.
    numbers = [change.index] if change.free is None else [change.index, change.free]
    for state in change.states.values():
        away = state.render(poses[out - 1 : out])
        assert not np.isin(away.identity, numbers).any()
    if event.known == "none":
        assert event.begin is None
        assert same(views, plain)
        return
    assert event.begin is not None
    assert not differs[: event.begin].any()
    ended = change.states["new"].render(poses[out:])
    assert np.array_equal(views.rgb[out:], ended.rgb)
    if event.known == "told":
        assert not differs[:out].any()
        return
    assert differs[event.begin] >= MIN_AREA
    assert differs[event.begin + 1] >= MIN_AREA
    # What takes time goes on unseen.
    area = (views.identity == change.index).sum(axis=(1, 2))
    if len(change.steps) > 1:
        last = int(np.flatnonzero(area[:out])[-1])
        assert event.room(last).objects[change.index] != change.steps[-1]


@pytest.mark.parametrize("name", NAMES)
def test_the_states_can_be_told_apart_where_they_are_looked_for(name: str) -> None:
    event, way = found(name)
    here, region = way.poses[event.frame : event.frame + 1], event.region
    assert len(event.states) == {"taken": 2, "added": 2, "recoloured": 3}.get(event.change.what, 4)
    for state, picture in zip(event.states, event.renderings, strict=True):
        assert np.array_equal(event.change.states[state].render(here).rgb[0], picture)
    for a, b in itertools.combinations(event.renderings, 2):
        off = (a != b).any(axis=-1)
        assert off.sum() >= MIN_AREA
        assert not off[~region].any()
    shown = "old" if event.known == "none" else "new"
    picture = event.renderings[event.states.index(shown)]
    assert np.array_equal(event.render(way.poses).rgb[event.frame], picture)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("moved", "rolled"))])
def test_what_moves_stays_among_the_things_of_the_room(name: str) -> None:
    change = found(name)[0].change
    before, free = change.before, change.free
    assert free is not None
    assert before.objects[free] is None
    start, spot = before.objects[change.index], before.places[free]
    assert start is not None
    # As high as the stand that waits for it.
    assert spot.position[1] == start.position[1]
    others = [o for o in before.objects if o is not None and o is not start]
    for step in change.steps:
        assert step is not None
        x, y, z = step.position
        assert y == start.position[1]
        assert (step.shape, step.color, step.size) == (start.shape, start.color, start.size)
        assert abs(x) + step.size / 2 < before.width / 2
        assert abs(z) + step.size / 2 < before.depth / 2
        assert np.hypot(x, z) - step.size / 2 > before.free_radius
        for other in others:
            gap = np.hypot(x - other.position[0], z - other.position[2])
            assert gap > (step.size + other.size) / 2
    last = change.steps[-1]
    assert last is not None
    # Old and new are two places, not one.
    gone = np.hypot(*np.subtract(last.position, start.position)[[0, 2]])
    assert gone > start.size
    if change.what == "moved":
        assert last == spot
        return
    way = [np.hypot(*np.subtract(o.position, start.position)[[0, 2]]) for o in change.steps if o]
    np.testing.assert_allclose(way, rolled(float(gone)), atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.05, 20))
def test_a_ball_slows_down_evenly_and_stops(way: float) -> None:
    far = np.concatenate([[0.0], rolled(way)])
    speed = np.diff(far)
    assert (speed >= 0).all()
    assert far[-1] == pytest.approx(way)
    np.testing.assert_allclose(np.diff(speed)[:-1], -SLOWING, atol=1e-9)
    # In the last frame it comes to rest, at no more than it loses in one.
    assert speed[-1] <= SLOWING


def test_sentences_say_what_a_model_cannot_see() -> None:
    told = [found(name)[0] for name in NAMES if "-told-" in name]
    assert [e.sentence for e in told] == [e.change.sentence for e in told]
    moved, taken, added, recoloured, ball = sorted(
        told, key=lambda event: HAPPENINGS.index(event.change.what)
    )
    for event in (moved, taken, recoloured, ball):
        thing = event.change.before.objects[event.change.index]
        assert thing is not None
        assert f"The {thing.color} {thing.shape} " in event.change.sentence
    assert added.change.before.objects[added.change.index] is None
    new = recoloured.change.steps[-1]
    assert new is not None
    assert recoloured.change.sentence.endswith(f"is painted {new.color}.")
    for event in (moved, ball):
        start, end = event.change.before.objects[event.change.index], event.change.steps[-1]
        assert start is not None
        assert end is not None
        (x, _, z), (u, _, w) = start.position, end.position
        # From the middle, facing it, with y down: z cross x.
        side = "right" if z * u - x * w > 0 else "left"
        assert side in event.change.sentence
    assert all(found(n)[0].sentence is None for n in NAMES if "-told-" not in n)


def test_the_same_thing_happens_whether_it_is_known_or_not() -> None:
    room = sample_room(5, "heldout")
    way = make_path("loop180", room.start, 5, room)
    events = [
        find_event(room, Course("x", "loop180", event=("taken", known)), way.poses, way.out,
                   Camera())
        for known in (*KNOWN, "told")
    ]
    assert len({e.change.sentence for e in events if e}) == 1
    assert [e.begin for e in events if e][2:] == [events[2].begin] * 2  # pyrefly: ignore
    assert None not in events


def test_what_cannot_happen_is_none_or_one_line() -> None:
    room = sample_room(3, "open")
    way = make_path("loop180", room.start, 3, room)

    def find(course: Course, poses=way.poses, out=way.out):
        return find_event(room, course, poses, out, Camera())

    # No ball among the shapes of the split; nothing that comes back on a way that never leaves.
    assert find(Course("x", "loop180", event=("rolled", "told"))) is None
    still = way.poses[:1].repeat(5, axis=0)
    assert find(Course("x", "loop180", event=("taken", "none")), still, 3) is None
    for course, words in (
        (LOOP180, "nothing happens on course 'loop180'"),
        (Course("x", "loop180", event=("taken", "sene")), "did you mean 'seen'"),
        (Course("x", "loop180", event=("take", "seen")), "did you mean 'taken'"),
    ):
        with pytest.raises(LociError, match=words) as caught:
            find(course)
        assert "\n" not in str(caught.value)


def test_every_event_is_known_in_every_way_on_three_paths() -> None:
    assert len(EVENT_COURSES) == len({c.event for c in EVENT_COURSES}) == 15
    for what in {c.event[0] for c in EVENT_COURSES if c.event}:
        assert len({c.path for c in EVENT_COURSES if c.event and c.event[0] == what}) == 3
