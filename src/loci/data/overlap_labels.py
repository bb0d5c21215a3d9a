"""Labels of which frames of a scene see what a frame sees, a file a frame, in Context-as-Memory's
format: {"frame_index": 12, "overlapping_frames": ["3", "40"]}.

Ours are computed from true axes (`memory/overlap.py`), so that turning away ends an overlap. They
name earlier and later frames; who uses them as a past leaves out what is not past.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from loci.errors import LociError
from loci.geometry import Camera
from loci.io.files import atomic_write
from loci.io.parallel import parallel_map, worker_count
from loci.io.progress import Progress
from loci.memory.overlap import frustum_points, view_overlap

# Numbers that are in memory at once; a point of a view seen from another takes about ten.
AT_ONCE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class OverlapRule:
    """What counts as overlap: a share of a view, up to `reach` metres, that another one sees."""

    reach: float = 4.0
    share: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.reach < float("inf") or not 0 < self.share <= 1:
            raise LociError(
                f"a share of {self.share:g} within {self.reach:g} m is no overlap; use a share "
                "above 0 up to 1, and metres above 0"
            )


def overlapping(
    poses: np.ndarray, frames: Sequence[int], camera: Camera, rule: OverlapRule
) -> list[list[int]]:
    """For each of `frames` the other frames of a scene that see its view, by the rule.

    poses (N, 4, 4): of the whole scene, camera-to-world, metres.
    """
    past = torch.from_numpy(poses)[None]
    points = len(frustum_points(camera, rule.reach))
    rows = max(1, AT_ONCE // (len(poses) * points))
    found: list[list[int]] = []
    for first in range(0, len(frames), rows):
        group = list(frames[first : first + rows])
        seen = view_overlap(past[:, group], past, camera, rule.reach)[0] >= rule.share
        for frame, row in zip(group, seen, strict=True):
            row[frame] = False
            found.append(row.nonzero()[:, 0].tolist())
    return found


@dataclass(frozen=True)
class Unlabelled:
    """Frames of a scene that have no label: where they go, and what they follow from."""

    folder: Path
    poses: np.ndarray
    frames: tuple[int, ...]
    camera: Camera


def missing_labels(folder: Path, poses: np.ndarray, camera: Camera) -> Unlabelled:
    """What is missing in the folder of a scene's labels."""
    there = {file.name for file in folder.glob("*.json")}
    frames = tuple(n for n in range(len(poses)) if f"{n}.json" not in there)
    return Unlabelled(folder, poses, frames, camera)


def write_labels(
    scenes: Sequence[Unlabelled], rule: OverlapRule, workers: int | None = None
) -> int:
    """Label the frames that are not labelled, and return their number.

    A process a scene; one that is killed leaves whole files, and the next call makes the others.
    """
    scenes = [scene for scene in scenes if scene.frames]
    workers = worker_count(len(scenes)) if workers is None else workers
    total = sum(len(scene.frames) for scene in scenes)
    with Progress("labelling overlaps", total) as progress:
        for count in parallel_map(partial(_write, rule=rule), scenes, workers):
            progress.advance(count)
    return total


def _write(scene: Unlabelled, rule: OverlapRule) -> int:
    torch.set_num_threads(1)  # a process a core
    at_once = 64
    for first in range(0, len(scene.frames), at_once):
        group = scene.frames[first : first + at_once]
        found = overlapping(scene.poses, group, scene.camera, rule)
        for frame, others in zip(group, found, strict=True):
            label = {"frame_index": frame, "overlapping_frames": [str(n) for n in others]}
            atomic_write(scene.folder / f"{frame}.json", json.dumps(label))
    return len(scene.frames)


def read_label(folder: Path, frame: int) -> list[int]:
    """The frames that a scene's label names. LociError for one that is missing or damaged."""
    file = folder / f"{frame}.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        found = [int(n) for n in data["overlapping_frames"]]
        if int(data["frame_index"]) != frame or min(found, default=0) < 0:
            raise ValueError(f"it is of frame {data['frame_index']}")
    except FileNotFoundError as error:
        raise LociError(
            f"{file} is missing; make it with loci data label, or set context to 0"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LociError(
            f"label {file} is damaged ({error}); delete it and run loci data label"
        ) from error
    return found


def most_shown(labels: Sequence[Collection[int]], before: int, count: int) -> list[int]:
    """At most `count` frames before frame `before` that together see most of what is labelled.

    labels: the frames that see each target. Taken one by one: the frame that sees most targets
    which fewest of those taken see; of equals the one that sees more of all, then the later.
    Returned in order of time. Nothing at or after `before` is taken: that would be the answer.
    """
    seen: dict[int, set[int]] = {}
    for target, label in enumerate(labels):
        for frame in label:
            if frame < before:
                seen.setdefault(frame, set()).add(target)
    picks: list[int] = []
    left = set(range(len(labels)))
    while seen and len(picks) < count:
        best = max(seen, key=lambda frame: (len(seen[frame] & left), len(seen[frame]), frame))
        if not seen[best] & left and left != set(range(len(labels))):
            left = set(range(len(labels)))  # all that can be seen is: once more
            continue
        left -= seen.pop(best)
        picks.append(best)
    return sorted(picks)
