"""What a check of a folder of scenes says: the shape of `lerobot/report.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(kw_only=True)
class SceneReport:
    """What is wrong: `broken` makes a folder unusable as it is, `notes` do not. layout: what the
    folder is; scenes: the frames of each that could be read."""

    folder: Path
    layout: str
    scenes: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder), "layout": self.layout, "scenes": self.scenes,
            "broken": self.broken, "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """The report as text."""
        count = sum(self.scenes.values())
        lines = [f"{self.folder}: {self.layout}, {len(self.scenes)} scenes, {count} frames"]
        lines += [f"broken: {line}" for line in self.broken]
        lines += [f"note: {line}" for line in self.notes]
        if not self.broken:
            lines.append("whole: every scene can be read")
        return lines
