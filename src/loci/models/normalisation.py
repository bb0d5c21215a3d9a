"""Actions and robot states at a scale that a network learns well.

Which of the field's three ways is a setting (MemoryWAM leaves it open); the statistics come from
the training data and are buffers, so that they travel inside the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from loci.config import Config
from loci.errors import LociError, check_type

# Half the range of a number that is constant in the data (of an arm that always rests), at most.
STILL = 1e-6


@dataclass(frozen=True, kw_only=True)
class Normalisation(Config):
    """"mean-std": to mean 0 and deviation 1; "min-max": the range, "quantiles": the range from the
    1st to the 99th percentile, to -1..1."""

    kind: Literal["mean-std", "min-max", "quantiles"] = "min-max"


class Normaliser(nn.Module):
    """(x - middle) / scale for vectors (..., A) of `size` numbers; the identity until `fit`.

    The scale of a number that is constant in the data is 0. Forwards it keeps its own unit;
    backwards it is that constant, whatever the network says.
    """

    def __init__(self, config: Normalisation, size: int):
        super().__init__()
        self.config = config
        self.middle: Tensor
        self.scale: Tensor
        self.register_buffer("middle", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, values: Tensor) -> None:
        """Take the statistics of `values` (..., A). LociError where they are not finite, or are of
        another width."""
        check_type(values, Tensor, "values to normalise by", "a torch tensor (..., A)")
        flat = values.reshape(-1, values.shape[-1]).double()
        if flat.shape[1:] != self.middle.shape or not len(flat):
            raise LociError(
                f"statistics of {tuple(values.shape)} numbers for vectors of {len(self.middle)}; "
                "give (..., that many)"
            )
        if not bool(torch.isfinite(flat).all()):
            raise LociError("the data to normalise hold NaN or infinity; check the dataset")
        if self.config.kind == "mean-std":
            middle, scale = flat.mean(0), flat.std(0, correction=0)
        else:
            share = 0.01 if self.config.kind == "quantiles" else 0.0
            # Sorted by hand: torch.quantile refuses more than sixteen million values.
            ranked = flat.sort(0).values
            low = ranked[round(share * (len(flat) - 1))]
            high = ranked[round((1 - share) * (len(flat) - 1))]
            middle, scale = (low + high) / 2, (high - low) / 2
        least, greatest = flat.amin(0), flat.amax(0)
        constant = (greatest - least) / 2 <= STILL
        # Constant but for a few values, a number keeps its own unit.
        scale = torch.where(scale > STILL, scale, 1.0)
        self.middle.copy_(torch.where(constant, (least + greatest) / 2, middle))
        self.scale.copy_(torch.where(constant, 0.0, scale))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Statistics stay as they are when the weights around them go to half precision: bf16
        would round a joint by millimetres at the fingertips."""
        kept = self.middle, self.scale
        super()._apply(fn, recurse)
        if not self.middle.is_meta and not kept[0].is_meta:
            self.middle, self.scale = (k.to(self.middle.device) for k in kept)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.middle) / torch.where(self.scale == 0, 1.0, self.scale)

    def inverse(self, x: Tensor) -> Tensor:
        return x * self.scale + self.middle
