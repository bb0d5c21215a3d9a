"""What a folder of data is: by the files that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from loci.data.context_as_memory import FRAMES, POSES, ContextAsMemoryData
from loci.data.videos import VideosData

Layout = Literal["lerobot", "context-as-memory", "videos"]


def layout_of(folder: str | Path) -> Layout:
    """A folder's layout. One that has none of the marks is taken for a LeRobot dataset: its reader
    says what is missing."""
    folder = Path(folder)
    if (folder / "meta" / "info.json").exists():
        return "lerobot"
    if (folder / POSES).is_dir() or (folder / FRAMES).is_dir():
        return "context-as-memory"
    if folder.is_dir() and any(folder.glob("*.mp4")):
        return "videos"
    return "lerobot"


def scenes_in(folder: str | Path, settings: dict[str, object]) -> ContextAsMemoryData | VideosData:
    """The source of all scenes of a folder of this layout, with settings of it as JSON has them.

    LociError for a setting that the source does not have.
    """
    kind = ContextAsMemoryData if layout_of(folder) == "context-as-memory" else VideosData
    return kind.from_dict({**settings, "folder": str(folder), "split": "all"})
