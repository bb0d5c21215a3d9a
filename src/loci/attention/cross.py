"""Keys and values that cross-attention reads, computed once for a stream or a chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor


@dataclass(frozen=True)
class CrossKV:
    """Keys and values for each layer, (R, N, S, d), and a bias on the scores, (R, 1, 1, S).

    Rows R are those of the tokens that attend to them, or n times as many: then each of n equal
    stretches of a row has keys of its own.
    """

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor

    def rows(self, names: list[int]) -> CrossKV:
        """Those of some of the rows."""
        return CrossKV(
            [k[names] for k in self.keys], [v[names] for v in self.values], self.bias[names]
        )

    def tree(self, prefix: str) -> dict[str, Tensor]:
        """A copy as a plain tree of tensors, whose names begin with `prefix`."""
        tree = {f"{prefix}.bias": self.bias.clone()}
        for layer, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            tree[f"{prefix}.keys.{layer}"] = k.clone()
            tree[f"{prefix}.values.{layer}"] = v.clone()
        return tree

    @classmethod
    def from_tree(cls, tree: Mapping[str, Tensor], prefix: str, like: Tensor) -> CrossKV | None:
        """A copy of those in a tree, on the device of `like`; None where it holds none."""
        if f"{prefix}.bias" not in tree:
            return None
        layers = range(sum(name.startswith(f"{prefix}.keys.") for name in tree))
        copy = partial(Tensor.to, device=like.device, copy=True)
        return cls(
            [copy(tree[f"{prefix}.keys.{layer}"]) for layer in layers],
            [copy(tree[f"{prefix}.values.{layer}"]) for layer in layers],
            copy(tree[f"{prefix}.bias"]),
        )
