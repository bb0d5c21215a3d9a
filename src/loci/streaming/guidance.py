"""Classifier-free guidance: away from one text, towards another.

Source: Ho and Salimans, arXiv 2207.12598, with a negative text in place of none, as Wan samples.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from loci.attention.cross import CrossKV


@dataclass(frozen=True, eq=False)
class Guidance:
    """output = away + scale (towards - away), for outputs under two texts.

    scale: 1 is none, and more exaggerates what the text changes. away: the text to go away from, a
    row a stream. Both outputs come of one pass over rows 2 B: under the one text, then the other.
    """

    scale: float
    away: CrossKV

    def texts(self, towards: CrossKV, names: list[int]) -> CrossKV:
        """Both texts of some streams, rows 2 B; towards: theirs."""
        return CrossKV.cat([towards, self.away.rows(names)])

    def combine(self, outputs: Tensor) -> Tensor:
        """Outputs (2 B, ...) -> (B, ...)."""
        towards, away = outputs.chunk(2)
        return away + self.scale * (towards - away)
