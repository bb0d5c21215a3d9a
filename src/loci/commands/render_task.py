"""`loci worlds render tabletop`: an expert at work, as a video or a sheet. Source: ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from loci.io.pictures import VIDEO_SUFFIXES, check_frames_file, write_frames
from loci.worlds.tabletop.demonstration import demonstrate
from loci.worlds.tabletop.env import Tabletop
from loci.worlds.tabletop.table import CHUNK, RATE
from loci.worlds.tabletop.tasks import make_task

View = Literal["mosaic", "head"]


def render_task(
    task: str,
    seed: int,
    out: str | Path,
    hold: int = 1,
    view: View = "mosaic",
    report: Callable[[str], None] = print,
) -> np.ndarray:
    """Render the expert's episode `seed` into `out`: .mp4 every step, .png one frame a chunk.

    Returns the frames (T, H, W, 3). Raises LociError for an unknown task or suffix, a negative
    seed, a hold below 1, and when `out` cannot be written.
    """
    check_frames_file(out)
    env = Tabletop(make_task(task, hold))
    every = 1 if Path(out).suffix.lower() in VIDEO_SUFFIXES else CHUNK

    def picture() -> np.ndarray:
        return env.render() if view == "mosaic" else env.observe()["pixels"]["head"]

    frames = [picture() for _ in demonstrate(env, seed) if env.table.state.step % every == 0]
    frames.append(picture())
    write_frames(out, np.stack(frames), RATE)
    ending = "success" if env.verdict()["is_success"] else env.verdict()["failure"]
    report(f"{out}: {task} {seed}, {env.table.state.step} steps, {ending}, {len(frames)} frames")
    return np.stack(frames)
