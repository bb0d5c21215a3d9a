"""`loci worlds render rooms`: a room or flat along a camera path, as a video or a sheet. Source: ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loci.data.episodes import Episode, render_episode
from loci.io.pictures import check_frames_file, write_frames
from loci.worlds.rooms.flat_paths import FLAT_PATHS

Report = Callable[[str], None]


def render_room(
    split: str, seed: int, path: str, out: str | Path, report: Report = print
) -> Episode:
    """Render room (or flat) `seed` of `split` along `path` into `out`: .mp4 a video, .png a sheet.

    Raises LociError for an unknown split, path or suffix, and when `out` cannot be written.
    """
    check_frames_file(out)
    episode = render_episode(split, seed, path)
    write_frames(out, episode.rgb)
    world = "flat" if path in FLAT_PATHS else "room"
    report(f"{out}: {world} {split} {seed}, {path}, {len(episode.rgb)} frames")
    return episode
