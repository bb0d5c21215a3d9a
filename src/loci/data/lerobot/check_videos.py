"""Whether the videos of a LeRobot v3.0 dataset hold the frames of its episodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from loci.data.lerobot.dataset import Clip, Entry
from loci.data.lerobot.report import Report
from loci.data.statistics import Statistics, sampled, thinned, visual_stats
from loci.errors import LociError
from loci.io.extras import extra
from loci.io.video import frame_size, packet_times, walk

with extra("data"):
    import av

Clips = list[tuple[Entry, Clip]]


def check_videos(
    report: Report,
    key: str,
    quick: bool,
    parts: list[Statistics],
    progress: Callable[[str], None],
) -> None:
    """Check every frame of a camera's videos; append the statistics of its episodes to `parts`.

    quick: packets are read and not decoded, and there are no statistics.
    """
    files: dict[Path, Clips] = defaultdict(list)
    for entry in report.dataset.entries:
        clip = entry.clips[key]
        files[clip.path].append((entry, clip))
        if clip.stop - clip.start < (entry.length - 0.5) / report.dataset.fps:
            report.broken.append(
                f"episode {entry.index}: its video of '{key}' takes {clip.stop - clip.start:g} s "
                f"of {report.name(clip.path)}, too few for {entry.length} frames"
            )
    for path, clips in files.items():
        progress(report.name(path))
        clips.sort(key=lambda pair: pair[1].start)
        try:
            if _sound_size(report, key, path) and _apart(report, path, clips):
                _check_frames(report, path, clips, quick, parts)
        except LociError as error:
            numbers = ", ".join(str(entry.index) for entry, _ in clips)
            report.broken.append(f"'{key}' of episodes {numbers}: {error}")


def _sound_size(report: Report, key: str, path: Path) -> bool:
    """Whether the video's frames are as large as info.json says."""
    wanted, there = report.dataset.features[key].shape[:2], frame_size(path)
    if there == wanted:
        return True
    report.broken.append(
        f"{report.name(path)} is {there[0]} x {there[1]}, not {wanted[0]} x {wanted[1]} as "
        "info.json says"
    )
    return False


def _apart(report: Report, path: Path, clips: Clips) -> bool:
    """Whether no two episodes share a part of the video; `clips` are sorted by their starts."""
    fps, apart = report.dataset.fps, True
    before, end = clips[0][0], clips[0][1].start
    for entry, clip in clips:
        stop = clip.start + entry.length / fps
        if clip.start < end - 0.5 / fps:
            apart = False
            report.broken.append(
                f"episodes {before.index} and {entry.index} share {clip.start:g} s to "
                f"{min(stop, end):g} s of {report.name(path)}"
            )
        if stop > end:
            before, end = entry, stop
    return apart


def _check_frames(
    report: Report, path: Path, clips: Clips, quick: bool, parts: list[Statistics]
) -> None:
    """Report the episodes whose frames are not all in the video."""
    fps = report.dataset.fps
    starts = np.array([clip.start for _, clip in clips])
    seen = [np.zeros(entry.length, bool) for entry, _ in clips]
    picks = [set(sampled(entry.length).tolist()) for entry, _ in clips]
    kept: list[list[np.ndarray]] = [[] for _ in clips]
    failure = ""
    try:
        for time, image in _frames(path, quick):
            here = int(np.searchsorted(starts, time + 0.25 / fps, side="right")) - 1
            frame = round((time - starts[here]) * fps) if here >= 0 else -1
            if not 0 <= frame < len(seen[here]):
                continue
            if abs(time - starts[here] - frame / fps) > 0.25 / fps:
                continue
            seen[here][frame] = True
            if image is not None and frame in picks[here]:
                kept[here].append(image.to_ndarray(format="rgb24"))
                if len(kept[here]) == len(picks[here]):
                    parts.append(visual_stats(thinned(np.stack(kept[here]))))
                    kept[here] = []
    except LociError as error:
        if not any(there.any() for there in seen):
            raise
        failure = str(error)
    for (entry, _), there in zip(clips, seen, strict=True):
        if not there.all():
            report.broken.append(
                f"episode {entry.index}: {report.name(path)} has {int(there.sum())} of its "
                f"{entry.length} frames, none for frame {int(np.argmin(there))}"
            )
    if failure and all(there.all() for there in seen):
        report.notes.append(f"{failure}; its episodes are whole")


def _frames(path: Path, quick: bool) -> Iterator[tuple[float, av.VideoFrame | None]]:
    """(time, picture) of each frame of a video; the picture is None where it is not decoded."""
    return ((time, None) for time in packet_times(path)) if quick else walk(path)
