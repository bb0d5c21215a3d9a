"""How long a stream keeps what it has written: derived from the rule's structure.

After N frames, later queries are the chunks that know of frame N - 1 or later ones, and the frames
N and later while they are written. A key is kept as long as one of them may see it, and not longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from loci.rules.rule import BEING_MADE, CLASSES, FOREVER, WRITTEN, Kind, Rule

# Kinds of queries that know of the last frame written, not of one that is being written.
READING = (*BEING_MADE, Kind.EXECUTED)


class Retention:
    """How long the keys of each kind in `kinds` are kept under a rule.

    Raises LociError for a rule that does not say how long it shows a key (`Rule.shown`).
    """

    def __init__(self, rule: Rule, kinds: Sequence[Kind]):
        self.rule, self.kinds = rule, tuple(kinds)
        self._expiry: dict[Kind, list[int]] = {}
        self._written: dict[Kind, list[int]] = {}
        for kind in self.kinds:
            self._know(kind, 256)

    def expiry(self, kind: Kind, frame: int) -> int:
        """The number of written frames with which the keys of `frame` are kept for the last time;
        `frame` or less where they are not kept at all."""
        if frame >= len(self._expiry[kind]):
            self._know(kind, 4 * frame)
        return self._expiry[kind][frame]

    def sees_off(self, kind: Kind, frame: int) -> bool:
        """Whether a frame that is being written still sees those keys that it lets go."""
        return self.expiry(kind, frame) == self._written[kind][frame]

    def kept(self, kind: Kind, frames: int) -> int:
        """Of `frames` written frames, those whose keys are kept; actions are carried out between
        two of them."""
        if kind not in self.kinds:
            return 0
        frame = torch.arange(max(frames - (kind == Kind.EXECUTED), 0))
        return int((self._last(kind, frame) >= frames).sum())

    def peak(self, sizes: Mapping[Kind, int], frames: int) -> int:
        """The most tokens that are kept at a time on the way to `frames` frames, where a frame has
        so many of each kind."""
        change = torch.zeros(frames + 2, dtype=torch.long)
        for kind in self.kinds:
            if kind not in sizes:
                continue
            frame = torch.arange(frames)
            last = self._last(kind, frame).clamp(max=frames)
            change.index_add_(0, frame + 1, torch.full_like(frame, sizes[kind]))
            # What is not kept at all is there while it is written.
            gone = last.maximum(frame) + 1
            change.index_add_(0, gone, torch.full_like(frame, -sizes[kind]))
        return int(change.cumsum(0).max())

    def growth(self, kind: Kind) -> str:
        """How many frames' keys stay: "never" any, "constant", "logarithmic" or "linear"."""
        if kind not in self.kinds:
            return CLASSES[0]
        return CLASSES[max(self.rule.growth(asker, kind) for asker in (*WRITTEN, *READING))]

    def _know(self, kind: Kind, frames: int) -> None:
        """Work out the first `frames` frames."""
        frame = torch.arange(frames)
        self._expiry[kind] = self._last(kind, frame).tolist()
        self._written[kind] = self._last(kind, frame, WRITTEN).tolist()

    def _last(
        self, kind: Kind, frame: Tensor, askers: Sequence[Kind] = (*WRITTEN, *READING)
    ) -> Tensor:
        """`expiry` of many frames (F,), as far as queries of some kinds go."""
        last = torch.full_like(frame, -1)
        for asker in askers:
            # A chunk that knows of frame n comes after n + 1 frames, a frame n itself after n.
            later = int(asker in READING)
            for begin, end in self.rule.shown(asker, kind, frame):
                last = torch.maximum(last, torch.where(begin <= end, end + later, -1))
        return last.clamp(max=FOREVER)
