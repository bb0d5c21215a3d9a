"""Places in the buffers of a key-value cache, to copy tokens from and to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loci.streaming.kv_view import Rows


@dataclass(frozen=True, eq=False)
class Slots:
    """Runs (first, first slot, count) that all rows of a batch share, or for each row its own
    tokens and slots (B, T)."""

    runs: list[tuple[int, int, int]]
    tokens: Tensor | None
    slots: Tensor | None

    def take(self, source: Tensor, rows: Rows, first: int) -> list[Tensor]:
        """Copies of the tokens, of `rows` of `source` (B, N, S, d), counted from `first`."""
        if self.tokens is None:
            return [source[rows, :, first + a : first + a + n].clone() for a, _, n in self.runs]
        return [source.transpose(1, 2)[_column(rows, source), first + self.tokens]]

    def put(self, buffer: Tensor, streams: Rows, parts: list[Tensor], pivot: int) -> None:
        """Tokens that were taken, into the slots of `streams`."""
        if self.slots is None:
            for (_, to, count), part in zip(self.runs, parts, strict=True):
                buffer[streams, :, pivot + to : pivot + to + count] = part
        else:
            buffer.transpose(1, 2)[_column(streams, buffer), pivot + self.slots] = parts[0]


def _column(rows: Rows, of: Tensor) -> Tensor:
    """Rows as an index (B, 1)."""
    if isinstance(rows, slice):
        rows = torch.arange(*rows.indices(len(of)), device=of.device)
    return rows[:, None]
