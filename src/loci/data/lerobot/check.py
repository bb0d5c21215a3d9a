"""Whether a LeRobot v3.0 dataset is whole: a report that reads everything and writes nothing.

Source: ours; the rules are those that lerobot's reader counts on (lerobot_dataset.py,
video_utils.py) and its statistics (compute_stats.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loci.config import Config
from loci.data.lerobot.dataset import Clip, Dataset, Entry, Episode
from loci.data.lerobot.format import UNFINISHED, Feature
from loci.data.statistics import (
    NAMES,
    QUANTILES,
    Statistics,
    combine,
    sampled,
    thinned,
    vector_stats,
    visual_stats,
)
from loci.errors import LociError
from loci.io.video import count_frames, walk

# Seconds that a timestamp may lie beside frame / fps: lerobot's own tolerance.
GRID = 1e-4
# How far a stored statistic may lie from the recomputed one, as a part of the values' range:
# float32 sums, and for frames what their video codec changes.
NUMBERS, FRAMES = 0.01, 0.05


@dataclass(frozen=True, kw_only=True)
class Expected(Config):
    """What a model wants of a dataset; None and () ask for nothing.

    action, state: widths; cameras: names; height, width: size of every camera's frames.
    """

    action: int | None = None
    state: int | None = None
    cameras: tuple[str, ...] = ()
    height: int | None = None
    width: int | None = None
    fps: float | None = None


@dataclass(kw_only=True)
class Check:
    """What was found: `broken` makes a dataset unusable as it is, `notes` do not."""

    folder: Path
    dataset: Dataset
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        info = self.dataset.info
        return {
            "folder": str(self.folder),
            "robot_type": info.robot_type,
            "fps": info.fps,
            "episodes": info.total_episodes,
            "frames": info.total_frames,
            "tasks": list(self.dataset.tasks),
            "features": {name: f.to_dict() for name, f in info.features.items()},
            "broken": self.broken,
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """The report as text."""
        info = self.dataset.info
        robot = f", {info.robot_type}" if info.robot_type else ""
        seconds = info.total_frames / info.fps
        found = [
            f"{self.folder}: {info.total_episodes} episodes, {info.total_frames} frames, "
            f"{info.fps:g} a second ({seconds:,.0f} s){robot}"
        ]
        wide = max(map(len, info.features), default=0)
        for name, feature in info.features.items():
            codec = feature.extra.get("info", {}).get("video.codec", "")
            shape = " x ".join(map(str, feature.shape))
            found.append(f"  {name:{wide}}  {feature.dtype:8}{shape} {codec}".rstrip())
        found += [f"  task {number}: {task}" for number, task in enumerate(self.dataset.tasks)]
        found += [f"broken: {line}" for line in self.broken]
        found += [f"note: {line}" for line in self.notes]
        if not self.broken:
            found.append("whole: every episode can be read")
        return found


def check(
    folder: str | Path,
    expected: Expected | None = None,
    quick: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Check:
    """Read all of the dataset in `folder` and say what is wrong with it, a line each.

    `quick` does not decode videos: only what their headers promise is compared, and the statistics
    of frames are not. `progress` is told what is read. Raises LociError where `folder` is no
    dataset, or where its lists of tasks and episodes cannot be read.
    """
    dataset = Dataset.open(folder)
    found = Check(folder=Path(folder), dataset=dataset)
    _check_counts(found)
    if expected is not None:
        _check_expected(found, expected)
    parts: dict[str, list[Statistics]] = defaultdict(list)
    stored = dataset.stats()
    for episode in dataset:
        if episode.entry.length < 1:
            continue  # `_check_counts` has told of it
        progress(f"episode {episode.index}")
        _check_episode(found, episode, parts, stored)
    for key in dataset.info.videos:
        _check_videos(found, key, quick, parts, progress)
    _check_stats(found, parts, stored)
    return found


def _check_counts(found: Check) -> None:
    dataset, info, tell = found.dataset, found.dataset.info, found.broken.append
    if (found.folder / UNFINISHED).exists():
        found.notes.append("a recording was interrupted or is going on; record again to go on")
    total = 0
    for entry in dataset.entries:
        if entry.first != total:
            tell(f"episode {entry.index} begins at frame {entry.first} of all, not {total}")
        total = entry.first + entry.length
        if entry.length < 1:
            tell(f"episode {entry.index} has {entry.length} frames")
        for task in entry.tasks:
            if task not in dataset.tasks:
                tell(f"episode {entry.index} has a task that meta/tasks.parquet lacks: {task}")
    frames = sum(entry.length for entry in dataset.entries)
    if frames != info.total_frames:
        tell(f"info.json counts {info.total_frames} frames, the episodes have {frames}")
    if len(dataset.tasks) != info.total_tasks:
        tell(f"info.json counts {info.total_tasks} tasks, there are {len(dataset.tasks)}")
    if not dataset.entries:
        tell("it has no episodes")


def _check_expected(found: Check, expected: Expected) -> None:
    dataset, tell = found.dataset, found.broken.append
    for name, width in (("action", expected.action), ("observation.state", expected.state)):
        feature = dataset.features.get(name)
        if width is not None and (feature is None or feature.shape != (width,)):
            there = "is missing" if feature is None else f"has shape {feature.shape}"
            tell(f"'{name}' {there}; the model wants ({width},)")
    if expected.fps is not None and dataset.fps != expected.fps:
        tell(f"it has {dataset.fps:g} frames a second; the model wants {expected.fps:g}")
    cameras = expected.cameras or dataset.cameras
    for name in cameras:
        try:
            height, width = dataset.features[dataset.camera(name)].shape[:2]
        except LociError as error:
            tell(str(error))
            continue
        high, wide = expected.height or height, expected.width or width
        if (height, width) != (high, wide):
            tell(f"camera '{name}' is {height} x {width}; the model wants {high} x {wide}")


def _check_episode(
    found: Check,
    episode: Episode,
    parts: dict[str, list[Statistics]],
    stored: dict[str, Statistics],
) -> None:
    """The columns of an episode; its recomputed statistics go to `parts`."""
    dataset, entry = found.dataset, episode.entry
    where, length = f"episode {entry.index}", entry.length
    try:
        columns = episode.columns
    except LociError as error:
        found.broken.append(f"{where}: {error}")
        return
    fps = dataset.fps
    exact = {
        "frame_index": np.arange(length),
        "index": np.arange(entry.first, entry.first + length),
    }
    for name, wanted in exact.items():
        wrong = np.flatnonzero(columns[name] != wanted) if name in columns else [0]
        if len(wrong):
            found.broken.append(f"{where}: '{name}' has a gap at frame {wrong[0]}")
    off = np.abs(columns.get("timestamp", np.full(length, np.inf)) - np.arange(length) / fps)
    # float32 holds a timestamp of hours less exactly than the tolerance.
    if (off > GRID + length / fps * 1e-7).any():
        frame = int(np.argmax(off > GRID))
        found.broken.append(f"{where}: 'timestamp' is not {frame} / {fps:g} s at frame {frame}")
    numbers = columns.get("task_index", np.zeros(0, int))
    used = {dataset.tasks[n] if 0 <= n < len(dataset.tasks) else n for n in np.unique(numbers)}
    if not used <= set(entry.tasks):
        found.broken.append(f"{where}: 'task_index' names tasks that are not the episode's")
    for name, feature in dataset.features.items():
        if not feature.numeric or name not in columns:
            continue
        values = columns[name]
        if not np.isfinite(values).all():
            finite = np.isfinite(values.reshape(length, -1)).all(axis=1)
            frame = int(np.argmin(finite))
            count = int((~finite).sum())
            found.broken.append(
                f"{where}: '{name}' is NaN or infinite in {count} frames, first in {frame}"
            )
        else:
            # Of matrices lerobot keeps the last axis, and kept all before it kept quantiles.
            full = stored.get(name, {}).get("mean", np.zeros(0)).shape == feature.shape
            parts[name].append(vector_stats(values.reshape(length, -1) if full else values))
    for name, feature in dataset.features.items():
        if feature.dtype != "image":
            continue
        try:
            parts[name].append(visual_stats(thinned(episode.frames(name, sampled(length)))))
        except LociError as error:
            found.broken.append(f"{where}: {error}")


def _check_videos(
    found: Check,
    key: str,
    quick: bool,
    parts: dict[str, list[Statistics]],
    progress: Callable[[str], None],
) -> None:
    """Every frame of a camera's videos; statistics of sampled frames go to `parts`."""
    files: dict[Path, list[tuple[Entry, Clip]]] = defaultdict(list)
    for entry in found.dataset.entries:
        clip = entry.clips[key]
        files[clip.path].append((entry, clip))
        if clip.stop - clip.start < (entry.length - 0.5) / found.dataset.fps:
            found.broken.append(
                f"episode {entry.index}: its video of '{key}' takes {clip.stop - clip.start:g} s "
                f"of {_name(found, clip.path)}, too few for {entry.length} frames"
            )
    for path, clips in files.items():
        progress(_name(found, path))
        try:
            if quick:
                _check_header(found, path, clips)
            else:
                _check_frames(found, key, path, clips, parts)
        except LociError as error:
            numbers = ", ".join(str(entry.index) for entry, _ in clips)
            found.broken.append(f"'{key}' of episodes {numbers}: {error}")


def _check_header(found: Check, path: Path, clips: list[tuple[Entry, Clip]]) -> None:
    frames, need = count_frames(path), sum(entry.length for entry, _ in clips)
    if frames < need:
        found.broken.append(f"{_name(found, path)} has {frames} frames; its episodes {need}")


def _check_frames(
    found: Check,
    key: str,
    path: Path,
    clips: list[tuple[Entry, Clip]],
    parts: dict[str, list[Statistics]],
) -> None:
    fps, shape = found.dataset.fps, found.dataset.features[key].shape
    clips = sorted(clips, key=lambda pair: pair[1].start)
    starts = np.array([clip.start for _, clip in clips])
    seen = [np.zeros(entry.length, bool) for entry, _ in clips]
    picks = [set(sampled(entry.length).tolist()) for entry, _ in clips]
    kept: list[list[np.ndarray]] = [[] for _ in clips]
    failure = ""
    try:
        for time, image in walk(path):
            here = int(np.searchsorted(starts, time + 0.25 / fps, side="right")) - 1
            frame = round((time - starts[here]) * fps) if here >= 0 else -1
            if not 0 <= frame < len(seen[here]):
                continue
            if abs(time - starts[here] - frame / fps) > 0.25 / fps:
                continue
            if (image.height, image.width) != shape[:2]:
                found.broken.append(
                    f"{_name(found, path)} is {image.height} x {image.width}, not "
                    f"{shape[0]} x {shape[1]} as info.json says"
                )
                return
            seen[here][frame] = True
            if frame in picks[here]:
                kept[here].append(image.to_ndarray(format="rgb24"))
                if len(kept[here]) == len(picks[here]):
                    parts[key].append(visual_stats(thinned(np.stack(kept[here]))))
                    kept[here] = []
    except LociError as error:
        if not any(there.any() for there in seen):
            raise
        failure = str(error)
    for (entry, _), there in zip(clips, seen, strict=True):
        if not there.all():
            found.broken.append(
                f"episode {entry.index}: {_name(found, path)} has {int(there.sum())} of its "
                f"{entry.length} frames, none for frame {int(np.argmin(there))}"
            )
    if failure and all(there.all() for there in seen):
        found.notes.append(f"{failure}; its episodes are whole")


def _check_stats(
    found: Check, parts: dict[str, list[Statistics]], stored: dict[str, Statistics]
) -> None:
    """The stored statistics beside those of `parts`, an entry for each whole episode."""
    dataset = found.dataset
    if not stored:
        found.broken.append("meta/stats.json is missing; nothing can be normalised")
        return
    for name, feature in dataset.features.items():
        if not (feature.visual or feature.numeric):
            continue
        if name not in stored:
            found.broken.append(f"meta/stats.json lacks '{name}'")
            continue
        missing = [key for key in NAMES if key not in stored[name]]
        lost = [key for key in missing if key not in QUANTILES]
        if lost:
            found.broken.append(f"meta/stats.json lacks {', '.join(lost)} of '{name}'")
        elif missing:
            found.notes.append(f"meta/stats.json lacks {', '.join(missing)} of '{name}'")
        if parts[name] and len(parts[name]) == len(dataset) and not lost:
            wrong = _compare(stored[name], parts[name], feature)
            if wrong:
                found.broken.append(f"meta/stats.json: '{name}' {wrong}")


def _compare(stored: Statistics, parts: list[Statistics], feature: Feature) -> str:
    """What is wrong with a feature's stored statistics, or nothing."""
    whole = combine(parts)
    if stored["count"].size != 1:
        return f"has a count of {stored['count'].size} numbers"
    if not feature.visual and stored["count"].item() != whole["count"].item():
        return f"counts {stored['count'].item()} frames of {whole['count'].item()}"
    if feature.visual:
        span, part, names = np.ones((3, 1, 1)), FRAMES, ("mean", "std")
    else:
        span, part = whole["max"] - whole["min"], NUMBERS
        names = ("min", "max", "mean", "std", *QUANTILES)
    # float32 sums lose what is small beside the values themselves.
    slack = part * span + 1e-3 * np.maximum(np.abs(whole["min"]), np.abs(whole["max"])) + 1e-6
    for name in names:
        if name not in stored:
            continue
        value = stored[name]
        if not feature.visual and value.size == whole["mean"].size:
            value = value.reshape(whole["mean"].shape)
        if value.shape != whole["mean"].shape:
            return f"has {name} of shape {value.shape}, not {whole['mean'].shape}"
        low = high = whole[name]
        if name in QUANTILES:
            # The mean of the episodes' quantiles, and the quantile of all values, lie between.
            low = np.min([p[name] for p in parts], axis=0)
            high = np.max([p[name] for p in parts], axis=0)
        off = ~((value >= low - slack) & (value <= high + slack))
        if off.any():
            place = int(np.argmax(off.ravel()))
            right = f"{low.ravel()[place]:.4g}"
            if name in QUANTILES:
                right += f" to {high.ravel()[place]:.4g}"
            return f"has {name}[{place}] {value.ravel()[place]:.4g}; recomputed {right}"
    return ""


def _name(found: Check, path: Path) -> str:
    """A file's name below the dataset's folder."""
    return str(path.relative_to(found.folder))
