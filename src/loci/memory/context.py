"""Context memory: raw frames of the past, kept whole.

Echo-Memory (arXiv 2606.09803), rows "I2V" (K = 1) and "Context" (K = 5, 20): the first frame and
K - 1 frames retrieved by field-of-view overlap. Here in the cached form: a context frame attends
within itself, so that its keys and values are computed once, when it is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loci.errors import LociError
from loci.memory.base import Memory, together
from loci.memory.overlap import view_overlap
from loci.types import Camera
from loci.visibility import Kind, Rule, first, key, query, recent, retrieved, same_frame


@dataclass(frozen=True, kw_only=True)
class Context(Memory, name="context"):
    """The first frame and `frames` - 1 retrieved ones; `reach` caps their range, in metres."""

    frames: int = 20
    reach: float = 4.0

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise LociError("context memory: K counts the first frame; use 1 or more, or row none")
        if self.reach <= 0:
            raise LociError("context memory: the retrieval range is in metres and must be positive")

    @property
    def retrieves(self) -> int:
        return self.frames - 1

    def rule(self) -> Rule:
        itself = ~query(Kind.NOISY, Kind.ACTION) & same_frame
        context = first(1) | recent(1)
        if self.retrieves:
            context = context | retrieved
        chosen = query(Kind.NOISY, Kind.ACTION) & context
        return key(Kind.CLEAN) & (itself | chosen) | together

    def select(self, past: Tensor, targets: Tensor, camera: Camera) -> Tensor | None:
        """The K - 1 frames whose view overlaps the chunk's most; ties go to the later frame.

        The first and the last frame are visible anyway and are passed over.
        """
        if not self.retrieves:
            return None
        count = past.shape[1]
        score = view_overlap(targets, past, camera, self.reach).mean(dim=1)
        score = score + 1e-6 * torch.arange(count, device=score.device) / max(count, 1)
        score[:, 0] = score[:, -1] = -1.0
        wanted = min(self.retrieves, max(count - 2, 0))
        return score.topk(wanted, dim=1).indices
