"""Walks through train rooms and flats: where they lead, what is told on them, and their pictures,
rendered once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from loci.errors import LociError
from loci.geometry import Camera
from loci.io.files import check_writable
from loci.io.kept import keep, name_of, read_kept
from loci.io.parallel import parallel_map, worker_count
from loci.io.progress import Progress, announce

if TYPE_CHECKING:
    from loci.worlds.render.renderer import Views

# Raise it whenever a room, a path or a pixel changes: files of another version are refused.
FORMAT = "loci-episodes-1"
SHARD = 64  # rooms a file
WIDEST = 128  # bytes of a sentence
# Where among the steps of a walk with an event its way out ends.
OUT = (0.3, 0.7)


class Scenery(Protocol):
    """What is seen from poses (T, 4, 4), one a frame: a room, a flat, an event."""

    def render(self, poses: np.ndarray, camera: Camera | None = None) -> Views: ...


@dataclass(frozen=True, eq=False)
class Walk:
    """A way through a place at poses (T, 4, 4), and the sentence that is told from frame `since`
    on ("": none)."""

    scenery: Scenery
    poses: np.ndarray
    sentence: str = ""
    since: int = 0

    def render(self, camera: Camera) -> Views:
        """What is seen on it."""
        return self.scenery.render(self.poses, camera)


def _through_a_room(seed: int, steps: int, camera: Camera) -> Walk:
    from loci.worlds.rooms.paths import wander
    from loci.worlds.rooms.room import sample_room

    room = sample_room(seed, "train")
    return Walk(room, wander(room.start, seed, room, steps).poses)


def _through_a_flat(seed: int, steps: int, camera: Camera) -> Walk:
    from loci.worlds.rooms.flat import sample_flat
    from loci.worlds.rooms.flat_paths import wander_flat

    flat = sample_flat(seed, "train")
    return Walk(flat, wander_flat(flat, seed, steps).poses)


def _past_an_event(seed: int, steps: int, camera: Camera) -> Walk:
    """Each kind of event and of knowing it as often. What is told is told at the end of the way
    out, which is that of a random walk: it comes by again later. Few walks have no event, since
    they do not."""
    from loci.worlds.rooms.courses import Course
    from loci.worlds.rooms.events import HAPPENINGS, KNOWN, find_event
    from loci.worlds.rooms.room import room_rng

    walk = _through_a_room(seed, steps, camera)
    room = walk.scenery
    draw = room_rng("train", seed, "event of a walk")
    what, known = HAPPENINGS[draw.integers(len(HAPPENINGS))], KNOWN[draw.integers(len(KNOWN))]
    low, high = (round(share * steps / 4) for share in OUT)
    out = 1 + 4 * int(draw.integers(low, high + 1))
    course = Course("wander", "wander", event=(what, known))
    event = find_event(room, course, walk.poses, out, camera)
    return walk if event is None else Walk(event, walk.poses, event.sentence or "", out)


# From a seed, a number of steps, and the camera, on which it depends what is seen.
WALKS: dict[str, Callable[[int, int, Camera], Walk]] = {
    "rooms": _through_a_room, "flats": _through_a_flat, "events": _past_an_event,
}


def take_walk(world: str, seed: int, length: int, camera: Camera) -> Walk:
    """The walk of `length` frames through the train room or flat `seed` of a world."""
    return WALKS[world](seed, length - 1, camera)


def render_walks(
    seeds: Iterable[int],
    length: int = 65,
    camera: Camera | None = None,
    folder: str | Path | None = None,
    workers: int | None = None,
    world: str = "rooms",
) -> dict[str, np.ndarray]:
    """Walks of `length` = 1 + 4 n images through the train rooms, or flats, `seeds`.

    Returns rgb uint8 (E, T, H, W, 3) and poses float64 (E, T, 4, 4), in the order of `seeds`; in
    the world of events sentence (E, n) uint8, see `sentence_of`, and since (E,) int32 too. With a
    `folder`, shards of 64 walks are kept there: a killed rendering goes on where it was, and the
    same seeds are read back the next time. workers: processes (default: one a core, for more than
    one shard). Raises LociError for another length or a bad shard.
    """
    camera = camera or Camera()
    seeds = list(seeds)
    if length < 5 or length % 4 != 1:
        raise LociError(f"episodes of {length} frames; give 1 + 4 n, at least 5")
    if not seeds:
        raise LociError("no seeds to render; give one or more")
    shards = [seeds[i : i + SHARD] for i in range(0, len(seeds), SHARD)]
    one = partial(_shard, length=length, camera=camera, folder=folder, world=world)
    missing = [
        shard for shard in shards
        if folder is None or not _file(shard, length, camera, folder, world).exists()
    ]
    workers = worker_count(len(missing)) if workers is None else workers
    if folder is not None:
        check_writable(folder)
    if folder is not None and missing:
        began = time.monotonic()
        take_walk(world, missing[0][0], length, camera).render(camera)
        count = sum(map(len, missing))
        announce(
            f"rendering {count} training episodes", count,
            (time.monotonic() - began) / workers, length * camera.height * camera.width * 3, folder,
        )
    found: dict[str, np.ndarray] = {}
    with Progress("rendering episodes", len(seeds)) as progress:
        for number, made in enumerate(parallel_map(one, shards, workers)):
            for name, part in made.items():
                if not number:
                    found[name] = np.empty((len(seeds), *part.shape[1:]), part.dtype)
                found[name][number * SHARD : number * SHARD + len(part)] = part
            progress.advance(len(made["rgb"]))
    return found


def sentence_of(row: np.ndarray) -> str:
    """A sentence from its bytes (n,) uint8, filled up with zeros."""
    return row.tobytes().rstrip(b"\0").decode()


def named(world: str) -> dict[str, str]:
    """What a key says of the world: nothing of rooms, which were there first."""
    return {} if world == "rooms" else {"world": world}


def _key(seeds: list[int], length: int, camera: Camera, world: str) -> dict[str, object]:
    return {
        "camera": camera.to_dict(), "length": length, "seeds": seeds, "split": "train",
        **named(world),
    }


def _file(seeds: list[int], length: int, camera: Camera, folder: str | Path, world: str) -> Path:
    return Path(folder) / f"train-{name_of(_key(seeds, length, camera, world))}.safetensors"


def _shard(
    seeds: list[int], length: int, camera: Camera, folder: str | Path | None, world: str
) -> dict[str, np.ndarray]:
    key = _key(seeds, length, camera, world)
    file = None if folder is None else _file(seeds, length, camera, folder, world)
    if file is not None and file.exists():
        return read_kept(file, FORMAT, key)
    walks = [take_walk(world, seed, length, camera) for seed in seeds]
    made = {
        "rgb": np.stack([walk.render(camera).rgb for walk in walks]),
        "poses": np.stack([walk.poses for walk in walks]),
    }
    if world == "events":
        told = [walk.sentence.encode() for walk in walks]
        assert max(map(len, told)) <= WIDEST
        made["sentence"] = np.array(told, f"S{WIDEST}").view(np.uint8).reshape(len(told), WIDEST)
        made["since"] = np.array([walk.since for walk in walks], np.int32)
    if file is not None:
        keep(file, FORMAT, key, made)
    return made
