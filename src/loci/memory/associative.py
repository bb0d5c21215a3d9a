"""States that map keys to values: what the delta rule and test-time training have in common.

Per head, with y = norm(x) of a token,

    q, k = R unit(silu(W y + c)),    v = R silu(W y),    x <- x + gate W_o norm(R^-1 found),

where a query found something in the state and the gate is 0 at the start. Beside it the last
`window` frames stay visible.

The rotation R by the token's rotary angles is ours, that of the attention (GTA, arXiv 2310.10375):
values turn with their keys into the world, and what is found turns back into the view of who asks.
So are the biases c, which start heads as `training.initialise` starts those of the attention:
a constant in the first channel of each pair makes R k a code of where the token looks, and the
state a map from there to values, before anything is learned. Where angles are Wan's own, it is a
code of when and where in the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.attention.norms import RMSNorm
from loci.attention.rotary import ALIGNED, rotate
from loci.errors import LociError
from loci.memory.base import Memory, together
from loci.memory.recurrent import RecurrentState
from loci.rules.rule import Kind, Rule, key, recent


@dataclass(frozen=True, kw_only=True)
class Associative(Memory):
    """The last `window` frames R, and a state in every `every`-th block, the first included."""

    window: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        name = f"{self.type_name} memory"
        if self.window < 1:
            raise LociError(f"{name}: the window includes the present frame; use 1 or more")
        if self.every < 1:
            raise LociError(f"{name}: a state in every N-th block wants N of 1 or more")

    def rule(self) -> Rule:
        return key(Kind.CLEAN) & recent(self.window) | together

    def has_state(self, layer: int) -> bool:
        return layer >= 0 and layer % self.every == 0


class AssociativeState(RecurrentState):
    """The maps to queries, keys and values, and from what was found; the state is the subclass's.

    Tokens of all frames in a row, S = F * P; d = D / N channels a head.
    """

    tokenwise = True

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.head_norm = RMSNorm(width // heads, 1e-6)
        self.gate = nn.Parameter(torch.zeros(width))
        with torch.no_grad():
            for layer in (self.q, self.k):
                layer.bias[0::2], layer.bias[1::2] = ALIGNED, 0.0

    def queries(self, y: Tensor, rotary: Tensor) -> Tensor:
        """(B, S, D) -> (B, N, S, d), of length one."""
        return rotate(_unit(self.split(F.silu(self.q(y)))), rotary)

    def keys_values(self, y: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor]:
        k, v = _unit(self.split(F.silu(self.k(y)))), self.split(F.silu(self.v(y)))
        return rotate(k, rotary), rotate(v.to(exact(v)), rotary)

    def output(
        self, found: Tensor, x: Tensor, rotary: Tensor, scale: Tensor | None = None
    ) -> Tensor:
        """What queries found (B, N, S, d), `scale` times, to what is added to x (B, F, P, D)."""
        found = self.head_norm(rotate(found, rotary.conj()))
        if scale is not None:
            found = found * scale
        found = found.to(x.dtype).transpose(1, 2).flatten(2)
        # The gate goes to whichever is smaller, the weights or a few tokens.
        if found.shape[0] * found.shape[1] < len(self.gate):
            return (F.linear(found, self.o.weight) * self.gate).to(x.dtype).view_as(x)
        return F.linear(found, self.gate[:, None] * self.o.weight).to(x.dtype).view_as(x)

    def split(self, z: Tensor) -> Tensor:
        """(B, S, D) -> (B, N, S, d)."""
        return z.unflatten(-1, (self.heads, -1)).transpose(1, 2).contiguous()


def normed(x: Tensor) -> Tensor:
    """Tokens (B, F, P, D) as the maps take them in, (B, S, D)."""
    return F.layer_norm(x, x.shape[-1:]).flatten(1, 2)


def exact(x: Tensor) -> torch.dtype:
    """The precision that states are kept in: fp32, or more where the tokens have more."""
    return torch.promote_types(x.dtype, torch.float32)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.to(exact(x)), dim=-1)
