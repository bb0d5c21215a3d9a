"""Spans: tokens side by side that belong to one frame and kind.

Rules of a memory do not look at places inside a frame, so that one token answers for its span: a
question costs as much as there are frames, not tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from loci.rules.rule import Coords


@dataclass(frozen=True)
class TokenSpans:
    """Spans of tokens: where they start and how many tokens they have, both (n,), and the
    coordinates of the first token of each."""

    starts: Tensor
    sizes: Tensor
    coords: Coords

    def __len__(self) -> int:
        return len(self.starts)

    def slice(self, chosen: Tensor) -> tuple[int, int] | None:
        """The one slice (start, stop) of tokens that the chosen spans (n,) make up, if any."""
        index = chosen.nonzero()[:, 0]
        if not len(index) or int(index[-1] - index[0]) + 1 != len(index):
            return None
        return int(self.starts[index[0]]), int(self.starts[index[-1]] + self.sizes[index[-1]])

    def tokens(self, chosen: Tensor) -> Tensor:
        """The places of all tokens of the chosen spans (n,), in order."""
        starts, sizes = self.starts[chosen], self.sizes[chosen]
        before = sizes.cumsum(0) - sizes
        return torch.arange(int(sizes.sum())) + (starts - before).repeat_interleave(sizes)


@lru_cache(maxsize=64)
def token_spans(coords: Coords) -> TokenSpans:
    """The spans of tokens at `coords` (S,), on the CPU. Kept, since a stream lays every pass out
    alike: change a copy."""
    frame, kind = coords.frame, coords.kind
    change = (frame[1:] != frame[:-1]) | (kind[1:] != kind[:-1])
    starts = pad(change, (1, 0), value=True)[: len(coords)].nonzero()[:, 0]
    sizes = torch.diff(starts, append=starts.new_tensor([len(coords)]))
    return TokenSpans(starts, sizes, coords[starts])


def spread(seen: Tensor, queries: TokenSpans, sizes: Tensor) -> Tensor:
    """What spans see of spans, (..., n, m), as what tokens see of tokens."""
    return seen.repeat_interleave(queries.sizes, dim=-2).repeat_interleave(sizes, dim=-1)
