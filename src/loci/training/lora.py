"""Low-rank adaptation: of a frozen matrix W a change B A of few ranks is learnt.

LoRA (Hu et al., arXiv 2106.09685): W' = W + (alpha / rank) B A, with A at random and B zero at the
start, so that nothing changes at first. When the training is over the change is folded into W: what
is written is a plain model.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from loci.config import Config
from loci.errors import LociError


@dataclass(frozen=True, kw_only=True)
class Lora(Config):
    """rank: of the changes. alpha: their weight, over the rank (None: the rank). targets: patterns
    of the names of the linear layers that are adapted, with `*` for anything."""

    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = ("*.self_attn.*", "*.cross_attn.*", "*.ffn.*")

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.targets:
            raise LociError("lora: the rank counts, 1 or more, and a target is a name or pattern")
        if self.alpha is not None and not self.alpha > 0:
            raise LociError(f"lora: alpha is {self.alpha}; use a number above 0")

    def adapt(self, module: nn.Module, apart: str) -> None:
        """Adapt the linear layers of a module that `targets` names, none whose name begins with
        `apart`; their own weights stay as they are. LociError for a pattern that names none."""
        used = dict.fromkeys(self.targets, False)
        for name, layer in list(module.named_modules()):
            if not isinstance(layer, nn.Linear) or name.startswith(apart):
                continue
            fits = [pattern for pattern in self.targets if fnmatchcase(name, pattern)]
            used |= dict.fromkeys(fits, True)
            if fits:
                for parameter in layer.parameters():
                    parameter.requires_grad_(False)
                scale = (self.rank if self.alpha is None else self.alpha) / self.rank
                change = LowRank(layer.weight, self.rank, scale)
                parametrize.register_parametrization(layer, "weight", change)
        for pattern, found in used.items():
            if not found:
                raise LociError(
                    f"lora: no linear layer is called '{pattern}'; a name is blocks.0.self_attn.q, "
                    "say, and * stands for anything"
                )


class LowRank(nn.Module):
    """W -> W + scale B A, for W (O, I): A (R, I), B (O, R)."""

    def __init__(self, weight: Tensor, rank: int, scale: float):
        super().__init__()
        rows, cols = weight.shape
        self.scale = scale
        self.down = nn.Parameter(weight.new_empty(rank, cols))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down)


@torch.no_grad()
def fold(module: nn.Module) -> None:
    """Make plain weights of those that were adapted."""
    for layer in list(module.modules()):
        changes = getattr(layer, "parametrizations", {})
        if "weight" in changes and isinstance(changes["weight"][0], LowRank):
            parametrize.remove_parametrizations(layer, "weight")
