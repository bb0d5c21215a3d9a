"""What a memory asks of the video transformer: ways in for its evidence (`models/ports.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from loci.errors import LociError


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What a memory asks of the video transformer.

    channels: further latent channels C' of a chunk. branch: how many blocks are copied. tokens:
    width W of further tokens; every: they are read in blocks 0, every, 2 every, ...
    """

    channels: int = 0
    branch: int = 0
    tokens: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        if min(self.channels, self.branch, self.tokens) < 0 or self.every < 1:
            raise LociError("ports count channels, blocks and widths: 0 or more; every: 1 or more")

    def __or__(self, other: Ports) -> Ports:
        """Both; LociError where they share a port."""
        for name in ("channels", "branch", "tokens"):
            if getattr(self, name) and getattr(other, name):
                raise LociError(f"two memories use the port '{name}'; give each its own")
        return Ports(
            channels=self.channels or other.channels, branch=self.branch or other.branch,
            tokens=self.tokens or other.tokens,
            every=self.every if self.tokens else other.every,
        )
