"""Gated delta rule: each block carries a matrix that is corrected token by token.

Gated DeltaNet (arXiv 2412.06464, Section 3), the recurrent baseline beside MemoryWAM's window. Per
head, the tokens of clean frames in raster order update a state S (d, d) that maps keys to values:

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,    o_t = S_t^T q_t,

with q, k, v of `associative.py`, b = sigmoid(W y) and a = exp(-e^A softplus(W y + c)). What was
stored under a key is taken out before the new value goes in; all else fades by a_t. Noisy tokens
read S^T q and store nothing. What was found passes a norm per head, an output gate silu(W y), W_o
and a gate that starts at zero, and is added to the attention over the last `window` frames.

Not in the paper (ours): a head's first time constant is counted in frames; keys and values turn
with their tokens; no short convolution, which would have to be carried too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.attention.full_precision import full_precision
from loci.memory.associative import Associative, AssociativeState, exact, normed
from loci.memory.recurrent import RecurrentState, State

# Frames after which 1/e of a state is left, at birth: from the first head to the last.
FADES = (8.0, 512.0)
# Tokens that are worked on as one, at most.
CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class GatedDelta(Associative, name="delta"):
    """The last `window` frames R, and a state in every `every`-th block, the first included."""

    def state(
        self, layer: int, width: int, heads: int, grid: tuple[int, int]
    ) -> RecurrentState | None:
        if not self.has_state(layer):
            return None
        return DeltaState(width, heads, grid[0] * grid[1])


class DeltaState(AssociativeState):
    """A state S (d, d) a head: {"S": (B, N, d, d)}."""

    def __init__(self, width: int, heads: int, tokens: int):
        super().__init__(width, heads)
        self.open = nn.Linear(width, width, bias=False)  # the output gates
        self.rates = nn.Linear(width, 2 * heads)  # of a and b
        self.decay = nn.Parameter(torch.zeros(heads))  # A
        frames = torch.logspace(*map(math.log10, FADES), heads)
        with torch.no_grad():
            # At birth softplus(c) = 1 / (frames x tokens), whatever the token, and b is about 1/2.
            self.rates.weight[:heads].zero_()
            self.rates.bias[:heads] = torch.expm1(1 / (frames * tokens)).log()
            self.rates.bias[heads:].zero_()

    def init(self, batch: int) -> State:
        side = self.head_norm.weight.numel()
        return {"S": self.gate.new_zeros(batch, self.heads, side, side, dtype=exact(self.gate))}

    def write(
        self, x: Tensor, state: State, at: Sequence[int], rotary: Tensor
    ) -> tuple[Tensor, list[State]]:
        tokens, kind, y = x.shape[2], exact(x), normed(x)
        q, (k, v), rates = self.queries(y, rotary), self.keys_values(y, rotary), self.rates(y)
        a, b = rates.to(kind).transpose(1, 2).chunk(2, dim=1)  # (B, N, S)
        with full_precision(x):
            log_a = -self.decay.to(kind).exp()[:, None] * F.softplus(a)
            parts = (q, k, v, log_a, b.sigmoid())
            start, ends = state["S"].to(kind), [(frame + 1) * tokens for frame in at]
            if x.is_cuda and rates.dtype != kind and find_spec("fla") is not None:
                found, states = by_kernel(*parts, start, ends, rates.dtype)
            else:
                size = next(n for n in range(min(tokens, CHUNK), 0, -1) if tokens % n == 0)
                found, states = by_chunk(*parts, start, ends, size)
        return self._gated(found, y, x, rotary), [{"S": s} for s in states]

    def read(self, x: Tensor, state: State, rotary: Tensor) -> Tensor:
        y = normed(x)
        q = self.queries(y, rotary)
        with full_precision(x):
            found = q @ state["S"].to(q.dtype)
        return self._gated(found, y, x, rotary)

    def _gated(self, found: Tensor, y: Tensor, x: Tensor, rotary: Tensor) -> Tensor:
        return self.output(found, x, rotary, self.split(F.silu(self.open(y))))


def by_token(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, b: Tensor, state: Tensor, ends: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """The equations as they stand, the reference of the faster forms.

    q, k, v (B, N, S, d); log_a, b (B, N, S); state (B, N, d, d). Returns what all tokens read,
    (B, N, S, d), and the states after `ends` tokens each.
    """
    seen, found = [], [state]
    for t in range(q.shape[2]):
        state = log_a[:, :, t, None, None].exp() * state
        stored = torch.einsum("bnkv,bnk->bnv", state, k[:, :, t])
        right = b[:, :, t, None] * (v[:, :, t] - stored)
        state = state + torch.einsum("bnk,bnv->bnkv", k[:, :, t], right)
        seen.append(torch.einsum("bnkv,bnk->bnv", state, q[:, :, t]))
        found.append(state)
    return torch.stack(seen, dim=2), [found[end] for end in ends]


def by_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, b: Tensor, state: Tensor, ends: Sequence[int],
    size: int,
) -> tuple[Tensor, list[Tensor]]:
    """`by_token` in chunks of `size` tokens, which divides S and all `ends`.

    With G the sum of log a since the start of a chunk and S_0 the state before it,

        S_i = e^{G_i} S_0 + sum_{j <= i} e^{G_i - G_j} k_j u_j^T,
        u_i = b_i (v_i - e^{G_i} S_0^T k_i) - b_i sum_{j < i} e^{G_i - G_j} (k_i . k_j) u_j.

    This triangular system has the solution u = own - lost S_0 (the WY form of the paper, Section
    3.3), where own and lost are known for all chunks at once: only S_0 passes from one to the next.
    """
    q, k, v, log_a, b = (
        x.unflatten(2, (-1, size)).flatten(0, 1) for x in (q, k, v, log_a, b)
    )  # (B * N, C, c, ...)
    total = log_a.cumsum(-1)[..., None]  # G
    future = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
    fade = (total - total.mT).masked_fill(future, -torch.inf).exp()
    solved = torch.linalg.solve_triangular(
        b[..., None] * (k @ k.mT) * fade, b.diag_embed(), upper=False, unitriangular=True
    )
    own, lost = solved @ v, solved @ (total.exp() * k)
    end = total[..., -1:, :]
    late, left = (k * (end - total).exp()).mT, end.exp()

    shape, states, us = state.shape, [state.flatten(0, 1)], []
    for pieces in zip(*(x.unbind(1) for x in (own, lost, late, left)), strict=True):
        own_c, lost_c, late_c, left_c = pieces
        us.append(torch.baddbmm(own_c, lost_c, states[-1], alpha=-1))
        states.append(torch.baddbmm(left_c * states[-1], late_c, us[-1]))

    before, u = torch.stack(states[:-1], dim=1), torch.stack(us, dim=1)
    seen = (total.exp() * q) @ before + (q @ k.mT * fade) @ u
    return seen.view(*shape[:2], -1, shape[-1]), [states[e // size].view(shape) for e in ends]


def by_kernel(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, b: Tensor, state: Tensor, ends: Sequence[int],
    kind: torch.dtype,
) -> tuple[Tensor, list[Tensor]]:
    """`by_token` by flash-linear-attention on a GPU: tokens in half precision `kind`, states and
    what is found in fp32, a call for each piece between `ends`."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyrefly: ignore

    seen, found, start = [], [], 0
    q, k, v, b = (x.transpose(1, 2).to(kind) for x in (q, k, v, b))
    log_a, state = log_a.transpose(1, 2).float(), state.float()
    for end in sorted({*ends, q.shape[1]}):
        piece = slice(start, end)
        y, state = chunk_gated_delta_rule(
            *(x[:, piece].contiguous() for x in (q, k, v, log_a, b)),
            scale=1.0, initial_state=state, output_final_state=True,
        )
        seen.append(y)
        start = end
        if end in ends:
            found.append(state)
    return torch.cat(seen, dim=1).transpose(1, 2).float(), found
