"""Events: something happens to an object of a room, and the camera does not see all of it.

An object is moved to an empty stand beside it, taken, added on an empty pedestal, recoloured, or
rolls along a beam. Where a course asks for one, its room has what that takes (a stand, a beam, an
empty pedestal) whether it happens or not. How it is known:

| known | when | what the way out shows |
|---|---|---|
| none | never | what the room keeps |
| seen | the change begins in view, and ends before the object may be seen again | its beginning |
| told | after the last sight of the places on the way out | what was; a sentence tells the rest |

Everything follows from the split, the seed, the course and the camera, on which it depends what is
in view. Source: ours; the kinds of change as MemoBench has them (arXiv 2606.27537), in kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from skimage.morphology import dilation

from loci.errors import LociError, did_you_mean
from loci.geometry import Camera
from loci.worlds.render.geom import Geom
from loci.worlds.render.renderer import Views
from loci.worlds.render.shapes import SPLIT_SHAPES
from loci.worlds.rooms.courses import EXPLORE, LOOP180, LOOP360, WALK, Course
from loci.worlds.rooms.returns import MIN_AREA, clearest, label
from loci.worlds.rooms.room import PEDESTAL, Interior, Object, Room, candidates, room_rng

HAPPENINGS = ("moved", "taken", "added", "recoloured", "rolled")
KNOWN = ("none", "seen", "told")
# Frames that it takes to carry an object to the stand beside it.
CARRIED = 8
# How fast a rolling ball slows down, metres a frame a frame; how far it rolls at least, metres.
SLOWING, ROLLED = 0.04, 0.85
# How far beside an object its stand is, radians around the middle of the room: far enough that the
# two never overlap, near enough that one frame can show both.
ASIDE = np.radians((28.0, 34.0))
# Half of a beam's height and of its width, metres.
BEAM = 0.03, 0.05
# Levels by which two states must differ, on as many pixels as an object must show.
DIFFERENT = 30
# Frames in view from the beginning of a change on: of one at once, and of one that takes time.
AT_ONCE, IN_MOTION = (2,), (4, 3, 5)


@dataclass(frozen=True, eq=False)
class Change:
    """What happens to the object at place `index`: from `before` on it is as `steps` has it, frame
    by frame, and then as the last of them. None: it is not there. free: the place of its stand.
    """

    what: str
    index: int
    free: int | None
    before: Room
    steps: tuple[Object | None, ...]
    sentence: str

    def room(self, step: int) -> Room:
        """The room at one of the steps, or at -1, before them."""
        if step < 0:
            return self.before
        return self.before.with_object(self.index, self.steps[step])

    @property
    def states(self) -> dict[str, Room]:
        """How the room may look afterwards: "old", "new" and, where they are other states than
        these, "both" at once (the second at the place `free`) and "neither"."""
        found = {"old": self.before, "new": self.room(len(self.steps) - 1)}
        if self.free is not None:
            found["both"] = self.before.with_object(self.free, self.steps[-1])
        if self.before.objects[self.index] is not None and self.steps[-1] is not None:
            found["neither"] = self.before.with_object(self.index, None)
        return found


@dataclass(frozen=True, eq=False)
class Event:
    """A change, how it is known (one of `KNOWN`), and where its outcome is looked for.

    begin: the first frame that is not as before, None where nothing changes. frame: that of the way
    back which shows all the places of the change best. region (H, W): the union of the masks that
    the states have there, and a pixel around it. states: their names, in the order of `renderings`
    (N, H, W, 3) uint8, N from 2 to 4.
    """

    change: Change
    known: str
    begin: int | None
    frame: int
    region: np.ndarray
    states: tuple[str, ...]
    renderings: np.ndarray

    @property
    def sentence(self) -> str | None:
        """What a model may be told: the change, where it is known by that."""
        return self.change.sentence if self.known == "told" else None

    def room(self, frame: int) -> Room:
        """The room as it is at a frame."""
        return self.change.room(_step(self.change, self.begin, frame))

    def render(self, poses: np.ndarray, camera: Camera | None = None) -> Views:
        """The views from `poses` (T, 4, 4), one a frame, the room as it then is."""
        return _render(self.change, self.begin, poses, camera)


def find_event(
    room: Interior, course: Course, poses: np.ndarray, out: int, camera: Camera
) -> Event | None:
    """What happens in `room` on `course`, seen from `poses` (T, 4, 4), `out` of them the way out.

    An object that was seen, is out of view at the end of the way out, and whose places are in view
    together on the way back. None where the room has no such object, or the split none that rolls.
    Raises LociError for a course without an event, for unknown ones, and for a flat.
    """
    if course.event is None:
        raise LociError(f"nothing happens on course '{course.name}'; take one that has an event")
    what, known = course.event
    for word, words in ((what, HAPPENINGS), (known, KNOWN)):
        if word not in words:
            raise LociError(f"unknown event '{word}'{did_you_mean(word, words)}")
    if not isinstance(room, Room):
        raise LociError(f"course '{course.name}' has an event, and nothing happens in flats yet")
    # The same objects whether it is seen, told or does not happen.
    rng = room_rng(room.split, room.seed, f"event {what} {course.path}")
    for change in _changes(room, what, rng):
        event = _event(change, known, poses, out, camera)
        if event is not None:
            return event
    return None


def _changes(room: Room, what: str, rng: np.random.Generator) -> Iterator[Change]:
    """The changes that there may be in a room, in random order."""
    ways = [(i, side) for i in range(len(room.objects)) for side in (-1, 1)]
    for number in rng.permutation(len(ways)):
        index, side = ways[number]
        aside, far, color = rng.uniform(*ASIDE), rng.uniform(), int(rng.integers(4, 7))
        thing = room.objects[index]
        if thing is None:
            continue
        name = label(thing)
        hand = "right" if side > 0 else "left"
        if what == "taken":
            yield Change(what, index, None, room, (None,), f"The {name} is taken away.")
        elif what == "added":
            empty = room.with_object(index, None)
            article = "An" if name[0] in "aeiou" else "A"
            text = f"{article} {name} is put on the empty pedestal."
            yield Change(what, index, None, empty, (thing,), text)
        elif what == "recoloured":
            # Candidates 4 to 6 differ in colour alone.
            painted = candidates(room, index)[color]
            if not _twin(room, index, painted):
                text = f"The {name} is painted {painted.color}."
                yield Change(what, index, None, room, (painted,), text)
        elif what == "moved":
            before, spot, free = _with_stand(room, index, thing, side, aside)
            steps = _between(thing, spot, np.arange(1, CARRIED + 1) / CARRIED)
            text = f"The {name} is moved to the empty pedestal on its {hand}."
            yield Change(what, index, free, before, steps, text)
        elif "sphere" in SPLIT_SHAPES[room.split]:
            ball = replace(thing, shape="sphere")
            if _twin(room, index, ball):
                continue
            before, spot, free = _with_stand(room, index, ball, side, aside)
            length = np.hypot(*(np.subtract(spot.position, ball.position)[[0, 2]]))
            way = ROLLED + far * (length - ROLLED)
            steps = _between(ball, spot, rolled(way) / length)
            before = replace(before, fittings=(_beam(ball, spot),))
            text = f"The {label(ball)} rolls {way:.1f} m along its beam to the {hand}, and stops."
            yield Change(what, index, free, before, steps, text)


def rolled(way: float) -> np.ndarray:
    """How far a ball has rolled 1, 2, .. frames after it was pushed, metres, until it stops after
    `way`: s = v t - a t^2 / 2 with constant a and v^2 = 2 a way, at rest from t = v / a on."""
    speed = np.sqrt(2 * SLOWING * way)
    times = np.minimum(np.arange(1, np.ceil(speed / SLOWING) + 1), speed / SLOWING)
    return speed * times - SLOWING * times**2 / 2


def _twin(room: Room, index: int, thing: Object) -> bool:
    """Whether another place of the room has an object of this shape and colour."""
    others = [o for place, o in enumerate(room.objects) if o is not None and place != index]
    return (thing.shape, thing.color) in {(o.shape, o.color) for o in others}


def _with_stand(
    room: Room, index: int, thing: Object, side: int, aside: float
) -> tuple[Room, Object, int]:
    """The room with `thing` at `index` and an empty stand of the same height beside it, on the
    right for side 1, in place of the neighbour there; `thing` on that stand; the stand's place."""
    x, y, z = thing.position
    azimuth = np.arctan2(x, z) + side * aside
    toward = np.array([np.sin(azimuth), np.cos(azimuth)])
    walls = np.array([room.width, room.depth]) / 2 - thing.size / 2 - 0.05
    far = min(np.hypot(x, z), np.min(walls / np.maximum(np.abs(toward), 1e-9)))
    at = (float(far * toward[0]), y, float(far * toward[1]))
    spot = replace(thing, position=at, yaw=float(thing.yaw + side * aside))
    free = (index + side) % len(room.objects)
    places, objects = list(room.places), list(room.objects)
    places[free], objects[free], objects[index] = spot, None, thing
    return replace(room, places=tuple(places), objects=tuple(objects)), spot, free


def _between(a: Object, b: Object, shares: np.ndarray) -> tuple[Object, ...]:
    """An object on its straight way from `a` to `b`, at shares of it."""
    start, end = np.array(a.position), np.array(b.position)
    found = []
    for share in shares:
        x, y, z = (start + share * (end - start)).tolist()
        found.append(replace(a, position=(x, y, z), yaw=float(a.yaw + share * (b.yaw - a.yaw))))
    return tuple(found)


def _beam(a: Object, b: Object) -> Geom:
    """A level beam between two stands of equal height, its top where theirs is."""
    height, width = BEAM
    start, end = np.array(a.position), np.array(b.position)
    length = np.linalg.norm(end - start)
    along, down = (end - start) / length, np.array([0.0, 1.0, 0.0])
    middle = (start + end) / 2 + (0.45 * a.size + height) * down
    axes = np.stack([along, down, np.cross(along, down)], axis=1)
    return Geom("box", (length / 2, height, width), middle, axes, material=PEDESTAL)


def _step(change: Change, begin: int | None, frame: int) -> int:
    """How far a change is at a frame: -1 before it, its last step ever after."""
    return -1 if begin is None else min(max(frame - begin, -1), len(change.steps) - 1)


def _render(
    change: Change, begin: int | None, poses: np.ndarray, camera: Camera | None
) -> Views:
    steps = [_step(change, begin, frame) for frame in range(len(poses))]
    parts = []
    for step, run in groupby(range(len(poses)), key=steps.__getitem__):
        parts.append(change.room(step).render(poses[list(run)], camera))
    return Views(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("rgb", "depth", "identity", "poses")
        )
    )


def _event(
    change: Change, known: str, poses: np.ndarray, out: int, camera: Camera
) -> Event | None:
    """The change where and when it can be scored on this path, or None."""
    states = change.states
    # The state with most in it shows when which place is in view.
    fullest = states.get("both", states["old" if change.what != "added" else "new"])
    identity = fullest.render(poses, camera).identity
    numbers = [change.index] if change.free is None else [change.index, change.free]
    masks = np.stack([identity == number for number in numbers])
    areas = masks.sum(axis=(2, 3))
    frame = clearest(masks, areas, out)
    if frame is None or areas[:, out - 1].any() or (areas[:, :out].max(axis=1) < MIN_AREA).any():
        return None
    begins = _begins(change, known, areas, out)
    begin = next((b for b in begins if _sound(change, known, b, areas, poses, out, camera)), -1)
    if begin == -1:
        return None
    views = [state.render(poses[frame : frame + 1], camera) for state in states.values()]
    renderings = np.concatenate([view.rgb for view in views])
    if not _differ(renderings):
        return None
    shown = np.any([np.isin(view.identity[0], numbers) for view in views], axis=0)
    region = dilation(shown, np.ones((3, 3)))
    return Event(change, known, begin, frame, region, tuple(states), renderings)


def _begins(change: Change, known: str, areas: np.ndarray, out: int) -> list[int | None]:
    """The frames at which the change may begin, the best first; areas (P, T) of its places."""
    if known == "none":
        return [None]
    if known == "told":
        return [int(np.flatnonzero(areas[:, :out].any(axis=0))[-1]) + 1]
    last = int(np.flatnonzero(areas[0, :out] >= MIN_AREA)[-1])
    ahead = AT_ONCE if len(change.steps) == 1 else IN_MOTION
    # In view from the frame before the beginning on.
    return [
        last + 1 - frames for frames in ahead
        if last >= frames and (areas[0, last - frames : last + 1] >= MIN_AREA).all()
    ]


def _sound(
    change: Change, known: str, begin: int | None, areas: np.ndarray, poses: np.ndarray, out: int,
    camera: Camera,
) -> bool:
    """Whether a change from frame `begin` on is seen as far as it is to be, and no further."""
    if begin is None:
        return True
    back = out + int(np.flatnonzero(areas[:, out:].any(axis=0))[0])
    end = begin + len(change.steps) - 1
    if end >= back:
        return False
    area = (_render(change, begin, poses, camera).identity == change.index).sum(axis=(1, 2))
    if area[begin if known == "told" else out - 1 : back].any():
        return False
    if known == "told" or len(change.steps) == 1:
        return True
    # It is seen moving, and still moves when it goes out of view.
    seen = np.flatnonzero(area[begin:out] >= MIN_AREA) + begin
    return len(seen) >= 2 and bool((area[begin : begin + 2] >= MIN_AREA).all()) and end > seen[-1]


def _differ(renderings: np.ndarray) -> bool:
    """Whether every two of the states can be told apart."""
    values = renderings.astype(int)
    return all(
        (np.abs(a - b).max(axis=-1) > DIFFERENT).sum() >= MIN_AREA
        for number, a in enumerate(values) for b in values[:number]
    )


# Every event is known in three ways, each on another of the paths on which an observer looks out
# and then either retraces the way or comes by again. Of few cases, each has another event.
PATHS = (LOOP180, WALK, LOOP360, EXPLORE)
EVENT_COURSES = tuple(
    replace(course, name=f"{what}-{known}-{course.name}", event=(what, known))
    for n in range(len(HAPPENINGS) * len(KNOWN))
    for w, k in [(n % len(HAPPENINGS), n % len(KNOWN))]
    for what, known, course in [(HAPPENINGS[w], KNOWN[k], PATHS[(w + k) % len(PATHS)])]
)
