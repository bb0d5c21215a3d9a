"""Associative memory by hand: queries, keys and values of single tokens, and what is made of what
they find; and what the tests of carried states hold them to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from loci.memory.associative import AssociativeState
from loci.memory.recurrent import RecurrentState
from loci.models.world import WorldModel
from loci.streaming.policy import Policy
from loci.streaming.session import Session
from tiny_world import data


def disturb(carry: RecurrentState, spread: float = 0.3) -> None:
    """Double precision, and every weight moved at random, so that no zero hides a mistake."""
    with torch.no_grad():
        for parameter in carry.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    carry.double()


def store(session: Session | Policy, name: str) -> Any:
    """One of the stores of a stream."""
    return next(store for store in session.stream.stores if store.name == name)


def state_bytes(session: Session | Policy) -> int:
    """Bytes of state that a stream carries."""
    return sum(store.bytes() for store in session.stream.stores if store.name == "states")


def sizes_over_ten_frames(model: WorldModel) -> set[int]:
    """Bytes that a stream carries after each of ten frames."""
    latents, poses = data(model)
    session, sizes = model.session(2), set()
    with torch.no_grad():
        for frame in range(10):
            session.write(latents[:, frame : frame + 1], poses[:, frame : frame + 1])
            sizes.add(state_bytes(session))
    return sizes


def same_in_value_and_gradient(
    carry: RecurrentState, runs: Sequence[Callable[[Tensor], Tensor]], start: Tensor, weigh: Tensor
) -> None:
    """Both runs give the same from tokens `start`, and from sum(weigh * y) the same gradients."""
    results = []
    for run in runs:
        x = start.clone().requires_grad_()
        carry.zero_grad()
        y = run(x)
        (y * weigh).sum().backward()
        grads = {n: p.grad for n, p in carry.named_parameters()}
        results.append({"y": y.detach(), "x": x.grad} | {n: g.clone() for n, g in grads.items()})
    for name, value in results[1].items():
        torch.testing.assert_close(results[0][name], value, atol=1e-5, rtol=1e-5, msg=name)


def angles(batch: int, tokens: int, pairs: int, seed: int = 5) -> Tensor:
    """Rotary angles at random, (B, S, pairs)."""
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(batch, tokens, pairs, generator=generator, dtype=torch.float64)


def turn_of(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """One vector (d,) by angles (d / 2,), pair by pair."""
    parts = []
    for pair, a in zip(x.view(-1, 2), angle, strict=True):
        parts.append(torch.stack([a.cos() * pair[0] - a.sin() * pair[1],
                                  a.sin() * pair[0] + a.cos() * pair[1]]))
    return torch.cat(parts)


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def normed(x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


def addressed(carry: AssociativeState, x: Tensor, angle: Tensor) -> list[list[Tensor]]:
    """Queries, keys and values (d,) of a token x (D,), each of all heads."""
    y, side = normed(x), len(x) // carry.heads
    q, k = (silu(m.weight @ y + m.bias).split(side) for m in (carry.q, carry.k))
    v = silu(carry.v.weight @ y).split(side)
    found = [[turned(z / z.norm(), angle) for z in part] for part in (q, k)]
    return [*found, [turned(z, angle) for z in v]]


def answered(carry: AssociativeState, found: list[Tensor], angle: Tensor) -> Tensor:
    """What the heads of a token found, (d,) each, normed in its own view, (D,)."""
    back = [turned(z, -angle) for z in found]
    weight = carry.head_norm.weight
    return torch.cat([z / (z.square().mean() + 1e-6).sqrt() * weight for z in back])


def let_in(carry: AssociativeState, answer: Tensor) -> Tensor:
    """An answer (D,) as it is added to the token."""
    return carry.gate * (carry.o.weight @ answer)
