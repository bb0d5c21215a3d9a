"""Block-wise state space: a recurrence over latent time, one for each place of the grid.

Echo-Memory (arXiv 2606.09803, row "Block-wise SSM"; its recurrence follows arXiv 2505.20171). In
every N-th block, after self-attention, for each place of the grid by itself and with t counting
frames,

    [u_t, g_t] = W_in x_t,    s_t = a s_(t-1) + (1 - a) tanh(u_t),    a = sigmoid(decay),
    y_t = W_out (sigmoid(g_t) s_t),    x_t <- x_t + tanh(gate) y_t,

one decay a channel, 1/2 at the start, and gate 0 at the start; or, in the other form, y_t of
LayerNorm(x_t) and x_t <- x_t + (0.1 + 0.1 sigmoid(rho)) y_t.

Unlike in the public code, s is carried: from frame to frame, from chunk to chunk and from session
to session, always from past to future. Frames that are being generated go on from s, and leave it.
Not `carried` it is as there: s is 0 at the start of every pass, over the joint frames and the chunk
in the order in which they are placed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.attention.full_precision import full_precision
from loci.config import added_field
from loci.errors import LociError, did_you_mean
from loci.memory.base import Memory, together
from loci.memory.recurrent import RecurrentState, State
from loci.rules.rule import Kind, Rule, first, key, query, recent, same_frame

RESIDUALS = ("gate", "scale")


@dataclass(frozen=True, kw_only=True)
class Blockwise(Memory):
    """What state-space rows share: a state in block 0 and every `every`-th after it, beside
    `context` first frames A and `hint` last frames H, the present one included, that stay visible.

    These are the paper's ablations ctxA / eN / hH. It does not say what a hint is: ours is what a
    chunk sees to join on to. Beside joint frames, which show the first and the last frame anyway,
    both may be 0: a written frame then sees itself, and nothing of it stays but the state. carried:
    False begins anew in every pass, as Echo-Memory released it; frames stay in no other way then.
    """

    every: int = 2
    context: int = 1
    hint: int = 1
    carried: bool = added_field(True)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise LociError("state-space memory: every 1st block is the most; use every 1 or more")
        if self.context < 0:
            raise LociError("state-space memory: context cannot be negative; use 0 or more")
        if self.hint < 0:
            raise LociError("state-space memory: hint counts the last frames that a chunk joins on "
                            "to; use 1 or more, or 0 beside joint frames")
        if not self.carried and (self.context or self.hint):
            raise LociError("a state that is not carried runs over joint frames, and nothing else "
                            "stays visible; use context 0 and hint 0")

    def rule(self) -> Rule:
        if not self.carried:
            return together
        if not self.hint:
            itself = query(Kind.CLEAN) & same_frame
            return key(Kind.CLEAN) & (first(self.context) | itself) | together
        return key(Kind.CLEAN) & (first(self.context) | recent(self.hint)) | together

    @property
    def restarts(self) -> bool:
        return not self.carried

    def has_state(self, layer: int) -> bool:
        return layer >= 0 and layer % self.every == 0


@dataclass(frozen=True, kw_only=True)
class BlockSSM(Blockwise, name="ssm"):
    """`residual`: "gate", or "scale", the form with an input norm and a bounded scale."""

    residual: str = "gate"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.residual not in RESIDUALS:
            guess = did_you_mean(self.residual, RESIDUALS)
            raise LociError(f"unknown residual '{self.residual}'{guess}")

    def state(
        self, layer: int, width: int, heads: int, grid: tuple[int, int]
    ) -> RecurrentState | None:
        if not self.has_state(layer):
            return None
        return StateSpace(width, grid[0] * grid[1], self.residual == "gate", self.carried)


class StateSpace(RecurrentState):
    """The recurrence of one block; the state is s, (B, P, D). Names are those of the released
    weights."""

    def __init__(self, width: int, places: int, gated: bool, carried: bool = True):
        super().__init__()
        self.places, self.carried = places, carried
        self.in_proj = nn.Linear(width, 2 * width)
        self.out_proj = nn.Linear(width, width)
        self.decay_logit = nn.Parameter(torch.zeros(width))
        self.norm = nn.Identity() if gated else nn.LayerNorm(width)
        if gated:
            self.gate = nn.Parameter(torch.zeros(1))
        else:
            self.residual_logit = nn.Parameter(torch.zeros(1))
        self.gated = gated

    def init(self, batch: int) -> State:
        decay = self.decay_logit
        return {"s": torch.zeros(batch, self.places, len(decay), device=decay.device)}

    def write(
        self, x: Tensor, state: State, at: Sequence[int], rotary: Tensor
    ) -> tuple[Tensor, list[State]]:
        u, g = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        with full_precision(x):
            s = scan(u.float().tanh(), self.decay_logit.float(), state["s"])
        y = self.out_proj((g.float().sigmoid() * s).to(x.dtype))
        scale = self.gate.tanh() if self.gated else 0.1 + 0.1 * self.residual_logit.sigmoid()
        each = s.unbind(1)
        return scale * y, [{"s": each[t]} for t in at]

    def read(self, x: Tensor, state: State, rotary: Tensor) -> Tensor:
        return self.write(x, state, [], rotary)[0]


def scan(v: Tensor, decay: Tensor, s: Tensor) -> Tensor:
    """s_t = a s_(t-1) + (1 - a) v_t with a = sigmoid(decay), for all t at once.

    v (B, F, P, D), decay (D,), s (B, P, D) before the first frame; s after each, (B, F, P, D). A
    sum over the last n frames and the one n frames earlier, times a^n, are a sum over the last 2 n
    (Hillis and Steele 1986): log F steps, and powers of a number below 1 alone, so that nothing
    overflows however long the episode.
    """
    log_a, frames, n = F.logsigmoid(decay), v.shape[1], 1
    total = torch.sigmoid(-decay) * v
    while n < frames:
        later = torch.addcmul(total[:, n:], torch.exp(n * log_a), total[:, :-n])
        total, n = torch.cat([total[:, :n], later], dim=1), 2 * n
    age = torch.arange(1, frames + 1, device=v.device)[:, None, None]
    return torch.addcmul(total, torch.exp(age * log_a), s[:, None])
