"""The reference: attention under the dense mask of a rule, which runs anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from loci.rules.rule import Coords, Rule

QKV = tuple[Tensor | None, Tensor, Tensor]
"""Queries (None: nobody asks), keys and values of some tokens, (B, N, S, d) each."""
AttentionFn = Callable[[int, list[QKV]], list[Tensor | None]]
"""(layer, queries, keys and values of each stream of tokens) -> what the queries saw."""


class Dense:
    """Masked attention over the joined parts: the reference."""

    def __init__(
        self, rule: Rule, parts: Sequence[Coords], device: torch.device | str = "cpu"
    ):
        together = Coords.cat(parts).to(device)
        self.sizes = [len(part) for part in parts]
        mask = rule.mask(together, together)
        self.mask = mask if mask.dim() == 2 else mask[:, None]

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor | None]:
        q, k, v = joined(qkv)
        return [*F.scaled_dot_product_attention(q, k, v, self.mask).split(self.sizes, dim=2)]


def joined(qkv: list[QKV]) -> tuple[Tensor, Tensor, Tensor]:
    """All parts as one sequence. Where nobody wants to know what a part saw, its queries
    are missing; keys stand in for them, and what they see goes unread."""
    queries = torch.cat([k if q is None else q for q, k, _ in qkv], dim=2)
    return queries, torch.cat([k for _, k, _ in qkv], dim=2), torch.cat([v for *_, v in qkv], dim=2)
