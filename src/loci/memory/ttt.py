"""Test-time training: each block carries the weights of a small network that learns as it sees.

LaCT (arXiv 2505.23884, Section 3), as the baseline of MemoryWAM (arXiv 2606.20562). Per head, fast
weights W0, W1, W2 make the network

    f(x) = W1 (silu(W0 x) * W2 x).

Each clean frame is one step of gradient descent on -sum <f(k), v> over its tokens, with q, k, v of
`associative.py`; each token has learning rates softplus(W y + c), one for each of the three. After
the step all rows return to the norms that they were born with. With `momentum`, a step goes on
with a part of the one before it; with `muon`, it is made orthogonal (Newton-Schulz). A frame's own
queries, after its step, and those of noisy tokens read f(q) and store nothing. What was found
passes a norm per head, W_o and a gate that starts at zero, and is added to the attention over the
last `window` frames.

With `muon`, a step is as long as the mean learning rate of its tokens (as in Atlas, arXiv
2505.23735). In LaCT's public code it has length one whatever the rates: there a step takes in
thousands of tokens; one frame a step would soon overwrite what was seen before. Ours are three
Newton-Schulz rounds in place of five. Each multiplies what is small beside the step's norm by 3.4,
rounding included; that comes with the tokens, so that no precision inside helps. Five rounds make
it 500 times as large, three 40 times, and three suffice for what is above a fiftieth of the norm.

Nothing bounds what tokens ask for: learned rates may make a step hundreds of times as long as the
weights, which then know their last frame alone, and gradients explode through a hundred of them.
`clip` bounds a step row by row, as NFNets clip gradients (arXiv 2102.06171, Section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.attention.full_precision import full_precision
from loci.config import added_field
from loci.errors import LociError
from loci.memory.associative import Associative, AssociativeState, exact, normed
from loci.memory.newton_schulz import orthogonalise
from loci.memory.recurrent import RecurrentState, State

# Newton-Schulz rounds of a step.
ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class TTT(Associative, name="ttt"):
    """The last `window` frames R, and fast weights in every `every`-th block, the first included.

    expand: width of the fast network's middle, in head widths; rate: a token's learning rate at
    birth; momentum: what is kept of the step before, at birth: each token says how much, and the
    mean over the frame counts (None: nothing); muon: whether steps are made orthogonal; clip: a
    step moves no row by more than this part of its norm (None: however far).
    """

    expand: int = 1
    rate: float = 0.1
    momentum: float | None = None
    muon: bool = False
    clip: float | None = added_field(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expand < 1:
            raise LociError("ttt memory: expand counts head widths; use 1 or more")
        if self.rate <= 0:
            raise LociError("ttt memory: a learning rate of 0 or less learns nothing; raise rate")
        if self.momentum is not None and not 0 < self.momentum < 1:
            raise LociError("ttt memory: momentum lies between 0 and 1; leave it out for none")
        if self.clip is not None and self.clip <= 0:
            raise LociError("ttt memory: clip is a part of a row's norm, above 0; leave it out")

    def state(
        self, layer: int, width: int, heads: int, grid: tuple[int, int]
    ) -> RecurrentState | None:
        return FastWeights(self, width, heads) if self.has_state(layer) else None


class FastWeights(AssociativeState):
    """Fast weights (N, 3, m, d): W0, W2 and the transpose of W1 of each head.

    State: how far they have moved from the learned weights that they start at, and the last step
    where there is momentum: {"moved": (B, N, 3, m, d), "step": the same}.
    """

    def __init__(self, config: TTT, width: int, heads: int):
        super().__init__(width, heads)
        self.muon, self.clip = config.muon, config.clip
        side = width // heads
        middle = config.expand * side
        self.rates = nn.Linear(width, 3 * heads)
        nn.init.zeros_(self.rates.weight)
        nn.init.constant_(self.rates.bias, math.log(math.expm1(config.rate)))
        self.momentum = None
        if config.momentum is not None:
            self.momentum = nn.Linear(width, heads)
            nn.init.zeros_(self.momentum.weight)
            nn.init.constant_(self.momentum.bias, math.log(config.momentum / (1 - config.momentum)))
        # Rows of norm one or so: those of W0 and W2 sum over d, those of W1 over m.
        self.born = nn.Parameter(torch.randn(heads, 3, middle, side) / side**0.5)
        with torch.no_grad():
            self.born[:, 2] *= (side / middle) ** 0.5

    def init(self, batch: int) -> State:
        names = ["moved"] if self.momentum is None else ["moved", "step"]
        kind = exact(self.born)
        return {n: self.born.new_zeros(batch, *self.born.shape, dtype=kind) for n in names}

    def write(
        self, x: Tensor, state: State, at: Sequence[int], rotary: Tensor
    ) -> tuple[Tensor, list[State]]:
        shape, y = x.shape[1:3], normed(x)
        q, (k, v) = self.queries(y, rotary), self.keys_values(y, rotary)
        rates, kept = self._pace(y, shape)
        with full_precision(x):
            tokens = torch.stack([k, k, v], dim=2).unflatten(3, shape)  # (B, N, 3, F, P, d)
            tokens = tokens.permute(3, 0, 1, 2, 4, 5).contiguous()
            start = {name: part.to(tokens.dtype) for name, part in state.items()}
            fast, states = self._learn(tokens, rates, kept, start, at)
            found = apply(fast, q.unflatten(2, shape)).flatten(2, 3)
        return self.output(found, x, rotary), states

    def read(self, x: Tensor, state: State, rotary: Tensor) -> Tensor:
        q = self.queries(normed(x), rotary)
        with full_precision(x):
            found = apply(self.born.to(q.dtype) + state["moved"].to(q.dtype), q)
        return self.output(found, x, rotary)

    def _pace(self, y: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Learning rates (F, B, N, 3, P, 1), and what each frame keeps of the step before it,
        (F, B, N, 1, 1, 1)."""
        rates = F.softplus(self.rates(y).to(exact(y))).unflatten(-1, (3, self.heads))
        rates = rates.unflatten(1, shape).permute(1, 0, 4, 3, 2)[..., None]
        kept = rates.new_zeros(len(rates))
        if self.momentum is not None:
            kept = self.momentum(y).to(exact(y)).sigmoid().unflatten(1, shape).mean(2)
            kept = kept.transpose(0, 1)[..., None, None, None]
        return rates, kept

    def _learn(
        self, tokens: Tensor, rates: Tensor, kept: Tensor, state: State, at: Sequence[int]
    ) -> tuple[Tensor, list[State]]:
        """One step a frame. tokens (F, B, N, 3, P, d): k, k and v, what meets W0, W2 and W1.

        Returns the weights after each frame, (B, N, F, 3, m, d), and the states after those `at`.
        """
        born = self.born.to(tokens.dtype)
        up, down = born[:, :2].norm(dim=-1, keepdim=True), born[:, 2:].norm(dim=-2, keepdim=True)
        fast, step = born + state["moved"], state.get("step")
        found: list[Tensor] = []
        states: list[State] = []
        frames = (z.unbind(0) for z in (tokens, tokens * rates, rates.mean(-2, keepdim=True), kept))
        for t, (now, weighted, length, keep) in enumerate(zip(*frames, strict=True)):
            rise = ascent(fast, now, weighted)
            if step is not None:
                step = rise = torch.addcmul(rise, keep, step)
            if self.muon:
                rise = length * orthogonalise(rise, ROUNDS)
            fast = torch.cat([
                moved(fast[:, :, :2], rise[:, :, :2], up, -1, self.clip),
                moved(fast[:, :, 2:], rise[:, :, 2:], down, -2, self.clip),
            ], dim=2)
            found.append(fast)
            if t in at:
                states.append({"moved": fast - born} | ({} if step is None else {"step": step}))
        return torch.stack(found, dim=2), states


def apply(fast: Tensor, x: Tensor) -> Tensor:
    """f(x) of tokens x (..., P, d) under fast weights (..., 3, m, d)."""
    gate, lift, down = fast.unbind(-3)
    return (F.silu(x @ gate.mT) * (x @ lift.mT)) @ down


def ascent(fast: Tensor, tokens: Tensor, weighted: Tensor) -> Tensor:
    """The gradient of sum <f(k), v>, each token times its learning rates, as the weights are laid.

    fast (B, N, 3, m, d); tokens (B, N, 3, P, d): k, k and v; weighted: the same, times the rates.
    """
    gate, lift, back = (fast @ tokens.mT).unbind(2)  # W0 k, W2 k and W1^T v, (B, N, m, P)
    open_ = gate.sigmoid()
    active = gate * open_
    steep = torch.addcmul(open_, active, 1 - open_)  # silu'
    return torch.stack([back * lift * steep, back * active, active * lift], dim=2) @ weighted


def moved(rows: Tensor, rise: Tensor, norm: Tensor, dim: int, clip: float | None) -> Tensor:
    """Rows (along `dim`) after a step of at most `clip` times their norm; the norm stays."""
    if clip is not None:
        rise = rise * (clip * norm / rise.norm(dim=dim, keepdim=True).maximum(clip * norm))
    rows = rows + rise
    return rows * (norm / rows.norm(dim=dim, keepdim=True))
