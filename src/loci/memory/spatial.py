"""Spatial token grid: the mean of all frames so far, a few tokens wide.

Echo-Memory (arXiv 2606.09803, rows "Spatial"). With x_t the tokens of frame t before the first
block, pooled over the rows and columns of the frame to G x G cells,

    m_t = (1 / t) sum_(j <= t) pool(x_j),    M_t = softmax(W) m_t,

W (T, G^2) learned, 0.02 N(0, 1) at the start: T memory tokens, or the cells themselves where no
mixture is asked for. A chunk reads them

- "cross": before block 0, x <- x + tanh(gate) MHA(x, M, M), gate 0 at the start;
- "concat": in every block, beside the text: x <- x + W_o attention(norm(x), M), W_o 0 at the start;
- "none": not at all. The grid is kept, and withheld.

Unlike in the public code, the grid is two-dimensional (there, tokens are pooled in raster order),
the mean runs over every frame written so far (there, over K sampled ones) and is carried, and
memory tokens have projections of their own rather than the text's: a model here may have no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.attention.full_precision import full_precision
from loci.attention.norms import RMSNorm
from loci.errors import LociError, did_you_mean
from loci.memory.base import Memory, together
from loci.memory.recurrent import RecurrentState, State
from loci.rules.rule import Kind, Rule, key, recent

READOUTS = ("concat", "cross", "none")
EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class SpatialGrid(Memory, name="spatial"):
    """`grid` cells G a side; `tokens` T mixed from them (None: the cells themselves); `readout`:
    "concat", "cross" or "none", which mixes nothing."""

    grid: int = 4
    tokens: int | None = None
    readout: str = "concat"

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise LociError("spatial memory: a grid has 1 cell a side at least; use grid 1 or more")
        if self.tokens is not None and self.tokens < 1:
            raise LociError("spatial memory: nothing to read from 0 tokens; use 1 or more, or None "
                            "for the cells themselves")
        if self.readout not in READOUTS:
            near = did_you_mean(self.readout, READOUTS)
            raise LociError(f"unknown readout '{self.readout}'{near}")
        if self.readout == "none" and self.tokens is not None:
            raise LociError("spatial memory: a grid that is never read mixes no tokens; leave "
                            "tokens out, or choose a readout")

    def rule(self) -> Rule:
        return key(Kind.CLEAN) & recent(1) | together

    def state(
        self, layer: int, width: int, heads: int, grid: tuple[int, int]
    ) -> RecurrentState | None:
        if layer < 0:
            reader = None
            if self.readout == "cross":
                reader = CrossReadout(width, heads, Mix(self.grid, self.tokens))
            return Grid(width, grid, self.grid, reader)
        if self.readout == "concat":
            return Beside(width, heads, Mix(self.grid, self.tokens))
        return None


class Grid(RecurrentState):
    """The grid itself, before the first block: {sum (B, G^2, D), count (B,)}, and the read-out that
    stands there, if any."""

    def __init__(self, width: int, grid: tuple[int, int], side: int, reader: nn.Module | None):
        super().__init__()
        self.width, self.reader = width, reader
        self.reach = None if reader is not None else 0
        self.register_buffer("pool", pooling(grid, side), persistent=False)

    def init(self, batch: int) -> State:
        cells = torch.zeros(batch, len(self.pool), self.width, device=self.pool.device)
        return {"sum": cells, "count": cells.new_zeros(batch)}

    def write(
        self, x: Tensor, state: State, at: Sequence[int], rotary: Tensor
    ) -> tuple[Tensor, list[State]]:
        with full_precision(x):
            pooled = torch.einsum("gp,bfpd->bfgd", self.pool.float(), x.float())
            total = (state["sum"][:, None] + pooled.cumsum(1)).unbind(1)
        states = [{"sum": total[t], "count": state["count"] + (t + 1)} for t in at]
        return torch.zeros_like(x), states

    def read(self, x: Tensor, state: State, rotary: Tensor) -> Tensor:
        return torch.zeros_like(x) if self.reader is None else self.reader(x, state)


class Mix(nn.Module):
    """Memory tokens (B, T, D) from a grid of G x G cells."""

    def __init__(self, side: int, tokens: int | None):
        super().__init__()
        self.logits = None
        if tokens is not None:
            self.logits = nn.Parameter(0.02 * torch.randn(tokens, side * side))

    def forward(self, state: State) -> Tensor:
        mean = state["sum"] / state["count"].clamp(min=1)[:, None, None]
        if self.logits is None:
            return mean
        with full_precision(mean):
            return self.logits.float().softmax(dim=-1) @ mean


class CrossReadout(nn.Module):
    """Noisy tokens attend to the memory tokens, through a gate. Names are those of the released
    weights."""

    def __init__(self, width: int, heads: int, mix: Mix):
        super().__init__()
        self.mix = mix
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, state: State) -> Tensor:
        memory = self.mix(state).to(x.dtype)
        seen, _ = self.attn(x.flatten(1, 2), memory, memory, need_weights=False)
        return (self.gate.tanh() * seen).reshape(x.shape).contiguous()


class Beside(RecurrentState):
    """Memory tokens beside the text of one block: Wan's cross-attention, with weights of its own
    and an output that starts at zero. The state is the grid's."""

    source = -1

    def __init__(self, width: int, heads: int, mix: Mix):
        super().__init__()
        self.heads, self.mix = heads, mix
        self.norm = nn.LayerNorm(width, EPS)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(width, EPS), RMSNorm(width, EPS)
        nn.init.zeros_(self.o.weight)
        nn.init.zeros_(self.o.bias)

    def init(self, batch: int) -> State:
        return {}

    def write(
        self, x: Tensor, state: State, at: Sequence[int], rotary: Tensor
    ) -> tuple[Tensor, list[State]]:
        return torch.zeros_like(x), [{} for _ in at]

    def read(self, x: Tensor, state: State, rotary: Tensor) -> Tensor:
        memory = self.mix(state).to(x.dtype)
        q = self._split(self.norm_q(self.q(self.norm(x).flatten(1, 2))))
        k, v = self._split(self.norm_k(self.k(memory))), self._split(self.v(memory))
        seen = F.scaled_dot_product_attention(q, k, v)
        return self.o(seen.transpose(1, 2).flatten(2)).view_as(x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def pooling(grid: tuple[int, int], side: int) -> Tensor:
    """Adaptive average pooling of a frame of rows x columns tokens to side x side cells, as a
    matrix (side^2, rows * columns)."""
    tokens = grid[0] * grid[1]
    each = torch.eye(tokens).view(1, tokens, *grid)
    return F.adaptive_avg_pool2d(each, side).view(tokens, -1).T.contiguous()
