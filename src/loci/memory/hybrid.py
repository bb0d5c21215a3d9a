"""Hybrid memory: anchors, a recent window and gists.

MemoryWAM (arXiv 2606.20562), Section 3 and Figure 3. With A anchors, R recent frames and M gists
a frame, what is known at frame t is

    C(t) = { f_j : j <= t and (j < A or j > t - R) }  u  { g_j : j <= t },

and the frame, its own gists and whatever is denoised after it all see exactly C(t). The window
includes the present frame. The cache therefore holds A L + R L + M N tokens after N frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from loci.errors import LociError
from loci.memory.base import Memory, together
from loci.rules.rule import Kind, Rule, first, key, past, recent


@dataclass(frozen=True, kw_only=True)
class Hybrid(Memory, name="hybrid"):
    """`anchors` first frames A, a window of `window` frames R, `gists_per_frame` gists M."""

    anchors: int = 1
    window: int = 1
    gists_per_frame: int = 3

    def __post_init__(self) -> None:
        if self.anchors < 0 or self.gists_per_frame < 0:
            raise LociError("hybrid memory: anchors and gists cannot be negative; use 0 or more")
        if self.window < 1:
            raise LociError("hybrid memory: the window includes the present frame; use 1 or more")

    @property
    def gists(self) -> int:
        return self.gists_per_frame

    def rule(self) -> Rule:
        frames = key(Kind.CLEAN) & (first(self.anchors) | recent(self.window))
        gists = key(Kind.GIST) & past
        return frames | gists | together
