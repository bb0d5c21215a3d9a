"""The gated delta rule: its chunked form against the equations, token by token."""

from __future__ import annotations

import pytest
import torch

from loci.errors import LociError
from loci.memory import GatedDelta
from loci.memory.delta import DeltaState, by_chunk, by_token


def a_carry() -> DeltaState:
    torch.manual_seed(0)
    carry = GatedDelta().carry(0, 16, 2, (2, 2))
    assert isinstance(carry, DeltaState)
    with torch.no_grad():
        for parameter in carry.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return carry.double()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_chunks_give_the_values_and_gradients_of_a_loop_over_tokens(size: int) -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 3, 12, 5, dtype=torch.float64) for _ in range(3))
    k = torch.nn.functional.normalize(k, dim=-1)
    log_a = -torch.rand(2, 3, 12, dtype=torch.float64)
    b = torch.rand(2, 3, 12, dtype=torch.float64)
    start = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v, log_a, b, start)]
    results = []
    for form, more in ((by_token, ()), (by_chunk, (size,))):
        seen, states = form(*inputs, [4, 12], *more)
        total = (seen * torch.arange(5)).sum() + sum(s.square().sum() for s in states)
        results.append((seen, states, torch.autograd.grad(total, inputs)))
    one, other = results
    torch.testing.assert_close(one[0], other[0])
    for a, c in zip(one[1] + list(one[2]), other[1] + list(other[2]), strict=True):
        torch.testing.assert_close(a, c)


def test_the_state_follows_the_equation_of_the_paper() -> None:
    torch.manual_seed(2)
    q, k, v = (torch.randn(1, 1, 6, 3, dtype=torch.float64) for _ in range(3))
    log_a = -torch.rand(1, 1, 6, dtype=torch.float64)
    b = torch.rand(1, 1, 6, dtype=torch.float64)
    state = torch.zeros(3, 3, dtype=torch.float64)
    seen, states = by_token(q, k, v, log_a, b, state[None, None], [6])
    for t in range(6):
        key, value = k[0, 0, t][:, None], v[0, 0, t][:, None]
        keep = torch.eye(3, dtype=torch.float64) - b[0, 0, t] * key @ key.T
        state = log_a[0, 0, t].exp() * keep @ state + b[0, 0, t] * key @ value.T
        torch.testing.assert_close(seen[0, 0, t], state.T @ q[0, 0, t])
    torch.testing.assert_close(states[0][0, 0], state)


def test_frames_one_by_one_leave_what_all_at_once_leave() -> None:
    carry, x = a_carry(), torch.randn(2, 5, 4, 16, dtype=torch.float64)
    seen, states = carry.write(x, carry.init(2), [1, 4])
    state = carry.init(2)
    for frame in range(5):
        own, (state,) = carry.write(x[:, frame : frame + 1], state, [0])
        torch.testing.assert_close(own, seen[:, frame : frame + 1])
        if frame in (1, 4):
            torch.testing.assert_close(state["S"], states[frame // 4]["S"])


def test_reading_depends_on_the_state_and_leaves_it() -> None:
    carry, x = a_carry(), torch.randn(2, 3, 4, 16, dtype=torch.float64)
    _, (state,) = carry.write(x, carry.init(2), [2])
    before = state["S"].clone()
    read = carry.read(x, state)
    assert torch.equal(state["S"], before)
    assert read.abs().max() > 0
    assert carry.read(x, carry.init(2)).abs().max() == 0


def test_nothing_is_added_at_birth() -> None:
    torch.manual_seed(0)
    carry = GatedDelta().carry(0, 16, 2, (2, 2))
    assert carry is not None
    x = torch.randn(1, 3, 4, 16)
    seen, (state,) = carry.write(x, carry.init(1), [2])
    assert seen.abs().max() == 0
    assert carry.read(x, state).abs().max() == 0
    assert state["S"].abs().max() > 0


@pytest.mark.parametrize("settings", [{"window": 0}, {"every": 0}])
def test_bad_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(LociError, match="delta memory"):
        GatedDelta(**settings)
