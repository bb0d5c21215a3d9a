"""The memory contract.

A mechanism is a frozen configuration that answers three questions:

- `rule()`: who sees whom. The streaming cache, the training mask and the fast forms follow.
- `gists`: how many learnable tokens summarise each frame (0: none).
- `select(...)`: which past frames a chunk that is about to be generated retrieves, if any.

Everything else (`init`, `write`, `read`, snapshots, files) is the same for all of them and lives
in `session.py`. A new mechanism is one file like `none.py` and one line in `memory/__init__.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from loci.config import Config
from loci.types import Camera
from loci.visibility import Kind, Rule, compile_plan, key, query, same_group

# What holds for every mechanism: tokens that are denoised together see each other, and nobody
# sees the noise of anybody else.
together = query(Kind.NOISY, Kind.ACTION) & key(Kind.NOISY, Kind.ACTION) & same_group


@dataclass(frozen=True, kw_only=True)
class Memory(Config, family=True):
    """One row of a study: what is kept of the past, and who may look at it."""

    @property
    def gists(self) -> int:
        """Learnable summary tokens a frame, M."""
        return 0

    @property
    def retrieves(self) -> int:
        """Past frames that `select` returns for a chunk, at most."""
        return 0

    @property
    def bounded(self) -> bool:
        """Whether the state stops growing: a promise that the conformance tests hold it to."""
        plan = compile_plan(self.rule())
        return plan.clean.recent is not None and (not self.gists or plan.gist.recent is not None)

    def rule(self) -> Rule:
        """Who sees whom."""
        raise NotImplementedError(f"{type(self).__name__} must say who sees whom: define rule()")

    def select(self, past: Tensor, targets: Tensor, camera: Camera) -> Tensor | None:
        """Frames to retrieve for a chunk.

        past: (B, N, 4, 4) poses of all frames written so far; targets: (B, T, 4, 4) poses of the
        chunk, both relative to each stream's first frame. Returns (B, n) distinct frame indices,
        n at most `retrieves`, or None where nothing is ever retrieved.
        """
        return None
