"""The rule on a GPU: FlexAttention under its block mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from loci.attention.dense import QKV, joined
from loci.rules.rule import Coords, Rule


class Flex:
    """The rule as a block mask of FlexAttention: forward and backward on a GPU."""

    def __init__(self, rule: Rule, coords: list[Coords]):
        together = Coords.cat(coords)
        self.sizes = [len(c) for c in coords]
        self.mask = rule.block_mask(together, together)
        self.attend = _flex(compiled=together.frame.device.type == "cuda")

    def __call__(self, layer: int, qkv: list[QKV]) -> list[Tensor | None]:
        q, k, v = joined(qkv)
        return [*self.attend(q, k, v, block_mask=self.mask).split(self.sizes, dim=2)]


@cache
def _flex(compiled: bool) -> Callable[..., Tensor]:
    """FlexAttention, compiled once for all steps."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention
