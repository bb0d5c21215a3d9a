"""Keys and values that cross-attention reads, computed once for a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Keys and values of the text for each layer, (R, N, S, d), and a bias (R, 1, 1, S).

    All padding is two keys; see `padding_bias`. Rows R are those of the tokens that attend to it,
    or n times as many: then each of n equal stretches of a row has a text of its own.
    """

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor

    def rows(self, names: list[int]) -> Text:
        """The texts of some of the rows."""
        return Text([k[names] for k in self.keys], [v[names] for v in self.values],
                    self.bias[names])

    def tree(self, prefix: str) -> dict[str, Tensor]:
        """A copy as a plain tree of tensors, whose names begin with `prefix`."""
        tree = {f"{prefix}.bias": self.bias.clone()}
        for layer, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            tree[f"{prefix}.keys.{layer}"] = k.clone()
            tree[f"{prefix}.values.{layer}"] = v.clone()
        return tree

    @classmethod
    def from_tree(
        cls, tree: Mapping[str, Tensor], prefix: str, device: torch.device
    ) -> Text | None:
        """A copy of the text in a tree, None where it holds none."""
        if f"{prefix}.bias" not in tree:
            return None
        layers = range(sum(name.startswith(f"{prefix}.keys.") for name in tree))
        copy = partial(Tensor.to, device=device, copy=True)
        return cls(
            [copy(tree[f"{prefix}.keys.{layer}"]) for layer in layers],
            [copy(tree[f"{prefix}.values.{layer}"]) for layer in layers],
            copy(tree[f"{prefix}.bias"]),
        )
