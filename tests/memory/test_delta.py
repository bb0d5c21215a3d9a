"""The gated delta rule: the carry against the equations, and its chunked form token by token."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from loci.attention.rotary import ALIGNED
from loci.errors import LociError
from loci.memory import GatedDelta
from loci.memory.associative import normed
from loci.memory.delta import DeltaState, by_chunk, by_kernel, by_token
from oracles import (
    addressed,
    angles,
    answered,
    disturb,
    let_in,
    same_in_value_and_gradient,
    silu,
    turn_of,
)
from oracles import normed as normed_token

BATCH, FRAMES, PLACES, WIDTH = 2, 5, 4, 16


def a_carry(spread: float = 0.3) -> DeltaState:
    torch.manual_seed(0)
    carry = GatedDelta().state(0, WIDTH, 2, (2, 2))
    assert isinstance(carry, DeltaState)
    disturb(carry, spread)
    return carry


def frames(count: int = FRAMES, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Tokens (B, F, P, D) and their angles (B, F * P, d / 2)."""
    torch.manual_seed(seed)
    x = torch.randn(BATCH, count, PLACES, WIDTH, dtype=torch.float64)
    return x, angles(BATCH, count * PLACES, WIDTH // 4, seed)


def oracle(carry: DeltaState, x: Tensor, angle: Tensor) -> Tensor:
    """What all tokens read, one after the other: Gated DeltaNet, equation 10, then its block."""
    side, rows = WIDTH // 2, []
    for b in range(BATCH):
        states = [torch.zeros(side, side, dtype=x.dtype) for _ in range(2)]
        for t, token in enumerate(x[b].flatten(0, 1)):
            y, (q, k, v) = normed_token(token), addressed(carry, token, angle[b, t])
            rates = carry.rates.weight @ y + carry.rates.bias
            found = []
            for n in range(2):
                a = (-carry.decay[n].exp() * (1 + rates[n].exp()).log()).exp()
                beta = 1 / (1 + (-rates[2 + n]).exp())
                keep = torch.eye(side, dtype=x.dtype) - beta * torch.outer(k[n], k[n])
                states[n] = a * keep @ states[n] + beta * torch.outer(k[n], v[n])
                found.append(states[n].T @ q[n])
            gate = silu(carry.open.weight @ y)
            rows.append(let_in(carry, answered(carry, found, angle[b, t]) * gate))
    return torch.stack(rows).view_as(x)


def test_it_equals_the_equations_in_value_and_gradient() -> None:
    carry, weigh = a_carry(), frames(seed=3)[0]
    start, angle = frames()

    def written(x: Tensor) -> Tensor:
        return carry.write(x, carry.init(BATCH), [], turn_of(angle))[0]

    same_in_value_and_gradient(
        carry, (written, lambda x: oracle(carry, x, angle)), start, weigh
    )


def streams(tokens: int, side: int, **kind: Any) -> list[Tensor]:
    """q, k, v (B, N, S, d), log_a, b (B, N, S) and a state (B, N, d, d), to be differentiated."""
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 3, tokens, side, **kind) for _ in range(3))
    log_a, b = -torch.rand(2, 3, tokens, **kind), torch.rand(2, 3, tokens, **kind)
    start = torch.randn(2, 3, side, side, **kind)
    k = torch.nn.functional.normalize(k, dim=-1)
    return [x.requires_grad_() for x in (q, k, v, log_a, b, start)]


def found(
    form: Callable[..., Any], inputs: list[Tensor], ends: list[int], *more: Any
) -> list[Tensor]:
    """What a form reads, the states that it leaves, and the gradients of both."""
    seen, states = form(*inputs, ends, *more)
    weigh = torch.arange(seen.shape[-1], device=seen.device)
    total = (seen * weigh).sum() + sum(s.square().sum() for s in states)
    return [seen, *states, *torch.autograd.grad(total, inputs)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_chunks_give_the_values_and_gradients_of_a_loop_over_tokens(size: int) -> None:
    inputs = streams(12, 5, dtype=torch.float64)
    for a, c in zip(found(by_token, inputs, [4, 12]), found(by_chunk, inputs, [4, 12], size),
                    strict=True):
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize("ends", [[4, 12], [3, 5], []])
def test_the_kernel_is_called_as_it_wants_to_be(
    ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop over tokens in the kernel's place, with its layout: tokens before heads."""

    def stand_in(q, k, v, g, beta, *, scale, initial_state, output_final_state):
        rows = (x.transpose(1, 2) for x in (q, k, v, g, beta))
        seen, (state,) = by_token(*rows, initial_state, [q.shape[1]])
        assert output_final_state
        return scale * seen.transpose(1, 2), state

    for name in ("fla", "fla.ops", "fla.ops.gated_delta_rule"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    vars(sys.modules["fla.ops.gated_delta_rule"])["chunk_gated_delta_rule"] = stand_in
    inputs = streams(12, 5)
    for a, c in zip(found(by_token, inputs, ends),
                    found(by_kernel, inputs, ends, torch.float32), strict=True):
        torch.testing.assert_close(a, c)


@pytest.mark.gpu
def test_the_kernel_on_a_gpu_agrees_in_value_and_gradient() -> None:
    pytest.importorskip("fla", reason="needs flash-linear-attention")
    inputs = streams(128, 32, device="cuda")
    for a, c in zip(found(by_token, inputs, [48, 128]),
                    found(by_kernel, inputs, [48, 128], torch.bfloat16), strict=True):
        assert (a - c).norm() < 0.02 * a.norm()


def test_frames_one_by_one_leave_what_all_at_once_leave() -> None:
    carry, (x, angle) = a_carry(), frames()
    seen, states = carry.write(x, carry.init(BATCH), [1, 4], turn_of(angle))
    state, each = carry.init(BATCH), angle.split(PLACES, dim=1)
    for t in range(FRAMES):
        own, (state,) = carry.write(x[:, t : t + 1], state, [0], turn_of(each[t]))
        torch.testing.assert_close(own, seen[:, t : t + 1])
        if t in (1, 4):
            torch.testing.assert_close(state["S"], states[t // 4]["S"])


def test_reading_depends_on_the_state_and_leaves_it() -> None:
    carry, (x, angle) = a_carry(), frames()
    turn = turn_of(angle)
    _, (state,) = carry.write(x, carry.init(BATCH), [4], turn)
    before = state["S"].clone()
    read = carry.read(x, state, turn)
    assert torch.equal(state["S"], before)
    assert read.abs().max() > 0
    assert carry.read(x, carry.init(BATCH), turn).abs().max() == 0


def test_only_differences_of_angles_count() -> None:
    carry, (x, angle) = a_carry(), frames()
    seen, (state,) = carry.write(x, carry.init(BATCH), [4], turn_of(angle))
    read = carry.read(x, state, turn_of(angle))
    further = turn_of(angle + angles(1, 1, WIDTH // 4, seed=8))
    same, (other,) = carry.write(x, carry.init(BATCH), [4], further)
    torch.testing.assert_close(same, seen)
    torch.testing.assert_close(carry.read(x, other, further), read)
    assert not torch.allclose(other["S"], state["S"])
    assert not torch.allclose(carry.read(x, state, further), read)


def test_keys_start_as_codes_of_where_their_tokens_look() -> None:
    """Tokens of the same angles agree, whatever is in them; others by the cosines between."""
    carry = a_carry(0.0)
    with torch.no_grad():
        carry.q.weight.zero_()
        carry.k.weight.zero_()
    assert (carry.k.bias[0::2] == ALIGNED).all()
    assert (carry.k.bias[1::2] == 0).all()
    x, angle = frames(1)
    y, turn = normed(x), turn_of(angle)
    score = carry.queries(y, turn) @ carry.keys_values(y, turn)[0].mT
    apart = (angle[:, :, None] - angle[:, None]).cos().mean(-1)
    torch.testing.assert_close(score, apart[:, None].expand_as(score))


def test_half_precision_keeps_the_state_in_fp32() -> None:
    carry, (x, angle) = a_carry().float(), frames()
    x, turn = x.float(), turn_of(angle.float())
    with torch.no_grad():
        seen, (state,) = carry.write(x, carry.init(BATCH), [4], turn)
        with torch.autocast("cpu", torch.bfloat16):
            rough, (other,) = carry.write(x, carry.init(BATCH), [4], turn)
            read = carry.read(x, other, turn)
    assert other["S"].dtype == rough.dtype == torch.float32
    torch.testing.assert_close(other["S"], state["S"], atol=0.03, rtol=0.03)
    torch.testing.assert_close(rough, seen, atol=0.1, rtol=0.1)
    torch.testing.assert_close(read, carry.read(x, state, turn), atol=0.1, rtol=0.1)


def test_nothing_is_added_at_birth() -> None:
    torch.manual_seed(0)
    carry = GatedDelta().state(0, WIDTH, 2, (2, 2))
    assert carry is not None
    x, angle = frames(3)
    x, turn = x.float(), turn_of(angle.float())
    seen, (state,) = carry.write(x, carry.init(BATCH), [2], turn)
    assert seen.abs().max() == 0
    assert carry.read(x, state, turn).abs().max() == 0
    assert state["S"].abs().max() > 0


@pytest.mark.parametrize("settings", [{"window": 0}, {"every": 0}])
def test_bad_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(LociError, match="delta memory"):
        GatedDelta(**settings)
