"""What a folder of scenes is like: how much there is, how its camera moves, what comes again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from loci.data.context_as_memory import LABELS, CamScene, ContextAsMemoryData, read_captions
from loci.data.overlap_labels import read_label
from loci.data.videos import VideosData
from loci.errors import LociError

# A frame that is seen again after so many others is seen again by memory, not by the last glance.
LATER = 81


def scene_stats(data: ContextAsMemoryData | VideosData) -> dict[str, Any]:
    """Numbers of a folder: frames, metres, turns, captions, and the share of frames whose view an
    earlier episode has seen (None without labels). LociError for a scene that cannot be read."""
    frames, steps, turns, extents, again, labelled = [], [], [], [], 0, 0
    for name in data.names():
        scene = data.open(name)
        poses = scene.poses
        frames.append(len(poses))
        places, turned = poses[:, :3, 3], poses[:, :3, :3]
        steps.append(np.linalg.norm(np.diff(places, axis=0), axis=1))
        # The chord between two rotations is sqrt(8) sin(angle / 2).
        chord = np.linalg.norm(np.diff(turned, axis=0), axis=(1, 2)) / 8**0.5
        turns.append(np.degrees(2 * np.arcsin(np.clip(chord, 0, 1))))
        extents.append(float(np.linalg.norm(np.ptp(places, axis=0))))
        if isinstance(scene, CamScene):
            folder = scene.folder / LABELS / name
            there = [n for n in range(len(poses)) if (folder / f"{n}.json").exists()]
            labelled += len(there)
            again += sum(min(read_label(folder, n), default=n) <= n - LATER for n in there)
    step, turn = np.concatenate(steps), np.concatenate(turns)
    if not len(step):
        raise LociError(f"no scene of {data.folder} has two frames; nothing moves")
    found: dict[str, Any] = {
        "folder": data.folder, "layout": data.type_name, "scenes": len(frames),
        "frames": int(sum(frames)), "frames_of_a_scene": [min(frames), max(frames)],
        "metres": float(step.sum()), "metres_a_frame": _spread(step),
        "degrees_a_frame": _spread(turn), "extent_metres": _spread(np.array(extents)),
    }
    if isinstance(data, ContextAsMemoryData):
        said = read_captions(Path(data.folder)).values()
        words = [len(segment.caption.split()) for part in said for segment in part]
        found |= {
            "captions": len(words),
            "words_a_caption": _spread(np.array(words)) if words else None,
            "seen_again": again / labelled if labelled else None,
        }
    return found


def stats_lines(found: dict[str, Any]) -> list[str]:
    """The same as text."""
    low, high = found["frames_of_a_scene"]
    lines = [
        f"{found['folder']}: {found['layout']}, {found['scenes']} scenes, {found['frames']} frames "
        f"({low} to {high} a scene), {found['metres']:,.0f} m",
        f"{'':16}{'median':>10}{'q10':>10}{'q90':>10}{'greatest':>10}",
    ]
    for name, title in (
        ("metres_a_frame", "metres a frame"), ("degrees_a_frame", "degrees a frame"),
        ("extent_metres", "extent, metres"), ("words_a_caption", "words a caption"),
    ):
        if (row := found.get(name)) is not None:
            numbers = "".join(f"{row[key]:10.3g}" for key in ("median", "q10", "q90", "max"))
            lines.append(f"{title:16}{numbers}")
    if found.get("seen_again") is not None:
        lines.append(
            f"{100 * found['seen_again']:.0f} % of the frames see what was seen {LATER} frames "
            "before or earlier"
        )
    return lines


def _spread(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {"median": float(middle), "q10": float(low), "q90": float(high),
            "max": float(values.max())}
