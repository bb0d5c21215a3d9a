"""Frames that a chunk sees again because of what they saw, walls in between included.

The rules of `retrieval.py` know where cameras stood, these know depth too (`geometry/views.py`):

- "cascade": the frames that together show most of what is known of the whole chunk, then those that
  show most of it again (ours);
- "surfels": those that the surfels in sight of the chunk vote for (VMem, arXiv 2506.18903);
- "revealed": key frames, kept when a share of what they show is new (the write rule of SPMem, arXiv
  2506.05284, Section 3.3); of these the latest. New is what no key frame showed before: of all
  frames, none shows much more than the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from loci.geometry.depth import intrinsics_of
from loci.geometry.scene_map import View
from loci.geometry.views import ViewIndex
from loci.memory.frames import Frames, views
from loci.memory.stores import Query, Setting, Tree, below

RULES = ("cascade", "surfels", "revealed")
EVIDENCE = 0.01
"""The share of a chunk's pixels that a frame has to show to be worth seeing again."""
EDITIONS = {"cascade": {"edition": 2}}
"""What a rule's picks depend on besides its settings: raised where it picks other frames than it
did, so that surveys with the old ones are made anew."""


@dataclass(frozen=True)
class ViewRule:
    """A rule by name, and how many frames it picks at most.

    least: of "revealed" the share of new pixels that makes a key frame, of the others the share of
    the chunk's pixels that a frame has to show: below it there is not enough evidence. first: if
    the first frame is seen anyway, as the last one always is. voxel: of the index, in metres.
    """

    name: str
    count: int
    least: float
    first: bool
    voxel: float = 0.2

    def keeps(self, index: ViewIndex, view: View) -> bool:
        """Whether a frame is kept."""
        return self.name != "revealed" or index.revealed(view) >= self.least

    def choose(self, index: ViewIndex, poses: Tensor, setting: Setting, written: int) -> list[int]:
        """Numbers of the frames that a chunk at poses (n, 4, 4) sees, the best first, after
        `written` frames."""
        seen = [written - 1, *[0] * self.first]
        if self.name == "revealed":
            kept = [n for n in index.frames.keys.tolist() if n not in seen]
            return kept[::-1][: self.count]
        choose = index.cover if self.name == "cascade" else index.vote
        camera = setting.camera
        return choose(
            poses, intrinsics_of(camera), camera.height, camera.width, self.count, seen, self.least
        ).frames


class Views:
    """What the frames of each stream saw, as far as the rule keeps them."""

    def __init__(self, rule: ViewRule, setting: Setting):
        self.rule, self.setting = rule, setting
        self.indexes = [self._empty() for _ in range(setting.batch)]

    @property
    def depends(self) -> dict[str, Any]:
        """The settings that its choices follow from."""
        return asdict(self.rule) | EDITIONS.get(self.rule.name, {})

    def write(self, frames: Frames, row: int, stream: int, number: int) -> list[int]:
        """Take in the frames of a row, the first of which is frame `number`; those that are kept,
        among them."""
        index, kept = self.indexes[stream], []
        for view in views(frames, row, number):
            if self.rule.keeps(index, view):
                index.add(view)
                kept.append(view.frame - number)
        return kept

    def choose(self, query: Query) -> Tensor:
        """The frames that chunks see, (B, count) numbers, the best first; -1 where there are none
        left."""
        found = torch.full((len(query.streams), self.rule.count), -1)
        assert query.poses is not None
        for row, (name, written) in enumerate(zip(query.streams, query.written, strict=True)):
            picks = self.rule.choose(self.indexes[name], query.poses[row], self.setting, written)
            found[row, : len(picks)] = torch.tensor(picks, dtype=torch.long)
        return found

    def reset(self, streams: Sequence[int]) -> None:
        for name in streams:
            self.indexes[name] = self._empty()

    def tree(self, streams: Sequence[int]) -> Tree:
        """ROW.PART of the indexes of some streams, numbered from 0."""
        return {
            f"{row}.{part}": value
            for row, name in enumerate(streams) for part, value in self.indexes[name].tree().items()
        }

    def check(self, tree: Mapping[str, Tensor], rows: int) -> None:
        """LociError for what is no tree of so many streams."""
        for row in range(rows):
            self.indexes[0].check(below(tree, str(row)))

    def restore(self, tree: Mapping[str, Tensor], streams: Sequence[int]) -> None:
        for row, name in enumerate(streams):
            self.indexes[name].restore(below(tree, str(row)))

    def bytes(self, stream: int) -> int:
        return self.indexes[stream].bytes

    def _empty(self) -> ViewIndex:
        return ViewIndex(self.rule.voxel, device=self.setting.device)
