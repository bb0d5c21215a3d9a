"""What really is there: the frames of a case, what was seen of them, and the objects to look for.

All of it depends on the case alone, so it is computed once and shared by every row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from loci.data.cases import Case
from loci.data.episodes import EpisodeCache
from loci.errors import LociError
from loci.geometry import Camera
from loci.geometry.imperfect import Imperfect
from loci.seeds import seed_for
from loci.worlds.render.renderer import Views
from loci.worlds.render.visibility import seen_before
from loci.worlds.rooms.courses import interior_of
from loci.worlds.rooms.events import Event, find_event
from loci.worlds.rooms.returns import Return, returns


@dataclass(frozen=True, eq=False)
class Truth:
    """One case: rgb uint8 (T, H, W, 3), depth (T, H, W), poses (T, 4, 4).

    Frames 0..observed-1 are given, the others generated. out: frames of the way out; pairs (P, 2):
    frames with equal poses; seen (T - observed, H, W): pixels visible in a given frame before.
    geometry: how far off the depth and poses are that a memory is told of given frames.
    event: what happens, where the course asks for something and the room can have it.
    """

    case: Case
    rgb: np.ndarray
    depth: np.ndarray
    poses: np.ndarray
    observed: int
    out: int
    pairs: np.ndarray
    seen: np.ndarray
    returns: tuple[Return, ...]
    camera: Camera
    event: Event | None = None
    geometry: Imperfect = field(default_factory=Imperfect)

    @property
    def generated(self) -> slice:
        """The frames that a row has to make."""
        return slice(self.observed, len(self.rgb))

    @property
    def away(self) -> int:
        """The frame of the way out whose pose differs most from the first: amid a full turn."""
        return int(np.abs(self.poses[: self.out] - self.poses[0]).sum(axis=(1, 2)).argmax())

    @property
    def sentence(self) -> str:
        """What a model may be told of what happened, after the given frames; "" for nothing."""
        return (self.event and self.event.sentence) or ""

    @cached_property
    def told(self) -> tuple[np.ndarray, np.ndarray]:
        """Depth (observed, H, W) and poses (observed, 4, 4) of the given frames, as a memory is
        told them."""
        depth, poses = self.geometry.apply(
            torch.from_numpy(self.depth[: self.observed]),
            torch.from_numpy(self.poses[: self.observed]), self.case.key,
        )
        return depth.numpy(), poses.numpy()

    @cached_property
    def other_room(self) -> Views:
        """Views (observed - 1) of another room, from its own start, along the relative poses of the
        given frames but the last. For a flat: one of the same plan, with other walls and objects,
        since any other would have walls where the path has doors."""
        case, poses = self.case, self.poses[: self.observed - 1]
        here = interior_of(case.course.path, case.seed, case.split)
        other = here.another(seed_for(case.seed, "wrong room") >> 32)
        relative = np.linalg.inv(poses[0]) @ poses
        return other.render(other.start @ relative, self.camera)


def prepare(
    case: Case, cache: EpisodeCache, camera: Camera, *, observe: str = "out",
    frames: int | None = None, groups: tuple[str, ...] = ("first", "later"),
    geometry: Imperfect | None = None,
) -> Truth:
    """The truth of a case.

    observe: "out" gives the whole way out, "first" the first frame alone. frames: cut the episode
    there. groups: which objects are looked for on the way back. geometry: how far off depth and
    poses are that a memory is told (default: exact).
    """
    course = case.course
    episode = cache.get(case.split, case.seed, course.path, camera)
    end = min(frames or len(episode.rgb), course.frames or len(episode.rgb), len(episode.rgb))
    out = min(course.out or episode.out, end)
    observed = {"out": out, "first": 1}[observe]
    if observed >= end:
        raise LociError(f"case {case.key} leaves no frame to generate; take a longer path")
    pairs = episode.pairs[(episode.pairs[:, 0] < out) & (episode.pairs[:, 1] < end)]
    rgb, depth, identity, poses = (
        a[:end] for a in (episode.rgb, episode.depth, episode.identity, episode.poses)
    )
    interior, event = interior_of(course.path, case.seed, case.split), None
    if course.event is not None:
        event = find_event(interior, course, poses, out, camera)
    if event is not None:
        views, interior = event.render(poses, camera), event.room(end - 1)
        rgb, depth, identity = views.rgb, views.depth, views.identity
    return Truth(
        case=case, rgb=rgb, depth=depth, poses=poses, observed=observed, out=out, pairs=pairs,
        seen=seen_before(depth, poses, observed, camera),
        returns=tuple(
            thing for thing in returns(interior, rgb, identity, poses, out, camera, groups)
            if event is None or thing.index != event.change.index
        ),
        camera=camera, event=event, geometry=geometry or Imperfect(),
    )
