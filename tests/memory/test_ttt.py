"""Test-time training against automatic differentiation of its loss, one token after the other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from loci.errors import LociError
from loci.memory import ROWS, TTT
from loci.memory.ttt import ROUNDS, FastWeights
from oracles import (
    addressed,
    angles,
    answered,
    disturb,
    let_in,
    normed,
    silu,
    sizes_over_ten_frames,
    turn_of,
)
from tiny_world import tiny_world

BATCH, FRAMES, PLACES, WIDTH, HEADS = 2, 4, 4, 16, 2
FORMS = [
    TTT(), TTT(expand=2), TTT(momentum=0.6), TTT(muon=True), TTT(momentum=0.9, muon=True),
    TTT(expand=2, momentum=0.5, muon=True), TTT(clip=0.05), TTT(momentum=0.9, muon=True, clip=0.01),
]


def carry_of(memory: TTT, spread: float = 0.3) -> FastWeights:
    torch.manual_seed(0)
    carry = memory.state(0, WIDTH, HEADS, (2, 2))
    assert isinstance(carry, FastWeights)
    disturb(carry, spread)
    return carry


def frames(count: int = FRAMES, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Tokens (B, F, P, D) and their angles (B, F * P, d / 2)."""
    torch.manual_seed(seed)
    x = torch.randn(BATCH, count, PLACES, WIDTH, dtype=torch.float64)
    return x, angles(BATCH, count * PLACES, WIDTH // HEADS // 2, seed)


def network(weights: list[Tensor], x: Tensor) -> Tensor:
    w0, w1, w2 = weights
    return w1 @ (silu(w0 @ x) * (w2 @ x))


def orthogonal(matrix: Tensor) -> Tensor:
    """Newton-Schulz by its effect on the singular values."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(ROUNDS):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vh


def oracle(carry, memory, x, angle, noisy) -> list[Tensor]:
    """What the frames x read, each after its step, and what a noisy chunk at the angles of the
    first frames reads after all of them."""
    seen, read = [], []
    for b in range(BATCH):
        born = [[w[0], w[2].T, w[1]] for w in carry.born]  # W0, W1, W2
        fast, steps = born, [[torch.zeros_like(w) for w in head] for head in born]
        for t in range(FRAMES):
            places = range(t * PLACES, (t + 1) * PLACES)
            tokens = [addressed(carry, x[b, t, i], angle[b, at]) for i, at in enumerate(places)]
            fast = [
                learned(carry, memory, n, fast[n], born[n], steps[n], x[b, t],
                        [(k[n], v[n]) for _, k, v in tokens])
                for n in range(HEADS)
            ]
            for (q, _, _), at in zip(tokens, places, strict=True):
                found = [network(fast[n], q[n]) for n in range(HEADS)]
                seen.append(let_in(carry, answered(carry, found, angle[b, at])))
        for i, token in enumerate(noisy[b].flatten(0, 1)):
            q = addressed(carry, token, angle[b, i])[0]
            found = [network(fast[n], q[n]) for n in range(HEADS)]
            read.append(let_in(carry, answered(carry, found, angle[b, i])))
    return [torch.stack(seen).view_as(x), torch.stack(read).view_as(noisy)]


def learned(carry, memory, n, fast, born, steps, frame, pairs) -> list[Tensor]:
    """One head's weights after a frame (P, D) of keys and values; `steps` move on in place."""
    rises = [torch.zeros_like(w) for w in fast]
    means = [torch.zeros(()) for _ in fast]
    for token, (k, v) in zip(frame, pairs, strict=True):
        raw = carry.rates.weight @ normed(token) + carry.rates.bias
        rates = (1 + raw.exp()).log().view(3, HEADS)[[0, 2, 1], n]  # of W0, W1, W2
        held = [w if w.requires_grad else w.detach().requires_grad_() for w in fast]
        grads = torch.autograd.grad(-(network(held, k) @ v), held, create_graph=True)
        rises = [r - rate * g for r, rate, g in zip(rises, rates, grads, strict=True)]
        means = [m + rate / len(pairs) for m, rate in zip(means, rates, strict=True)]
    if memory.momentum is not None:
        rows = [carry.momentum.weight @ normed(token) + carry.momentum.bias for token in frame]
        kept = sum(1 / (1 + (-row[n]).exp()) for row in rows) / len(rows)
        rises = [r + kept * step for r, step in zip(rises, steps, strict=True)]
        steps[:] = rises
    if memory.muon:
        rises = [m * orthogonal(r) for m, r in zip(means, rises, strict=True)]
    out = []
    for w, rise, start in zip(fast, rises, born, strict=True):
        rows = []
        for row, step, first in zip(w, rise, start, strict=True):
            norm, far = first.square().sum().sqrt(), step.square().sum().sqrt()
            if memory.clip is not None and far > memory.clip * norm:
                step = step * (memory.clip * norm / far)
            rows.append((row + step) * (norm / (row + step).square().sum().sqrt()))
        out.append(torch.stack(rows))
    return out


@pytest.mark.parametrize("memory", FORMS, ids=str)
def test_it_equals_gradient_descent_on_the_loss(memory):
    """In value; and in gradient where no singular vectors have to be differentiated for it."""
    carry, results = carry_of(memory), []
    (x, angle), noisy = frames(), frames(2, seed=2)[0]
    ahead = turn_of(angle[:, : 2 * PLACES])

    def run(x, noisy):
        seen, (state,) = carry.write(x, carry.init(BATCH), [FRAMES - 1], turn_of(angle))
        return [seen, carry.read(noisy, state, ahead)]

    for form in (run, lambda x, noisy: oracle(carry, memory, x, angle, noisy)):
        given = [x.clone().requires_grad_(), noisy.clone().requires_grad_()]
        seen, read = form(*given)
        found = {"seen": seen, "read": read}
        if not memory.muon:
            total = (seen * frames(seed=3)[0]).sum() + (read * frames(2, seed=4)[0]).sum()
            names, weights = zip(*carry.named_parameters(), strict=True)
            grads = torch.autograd.grad(total, [*given, *weights])
            found |= dict(zip(["x", "noisy", *names], grads, strict=True))
        results.append(found)
    for name, value in results[1].items():
        torch.testing.assert_close(results[0][name], value, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("memory", FORMS, ids=str)
def test_frames_one_by_one_leave_what_all_at_once_leave(memory):
    carry, (x, angle) = carry_of(memory), frames(9)
    with torch.no_grad():
        seen, states = carry.write(x, carry.init(BATCH), [0, 5, 8], turn_of(angle))
        state, found = carry.init(BATCH), {}
        for t, part in enumerate(angle.split(PLACES, dim=1)):
            own, (state,) = carry.write(x[:, t : t + 1], state, [0], turn_of(part))
            found[t] = state
            torch.testing.assert_close(own[:, 0], seen[:, t])
    for t, here in zip([0, 5, 8], states, strict=True):
        assert here.keys() == found[t].keys()
        for name, value in here.items():
            torch.testing.assert_close(value, found[t][name])


@pytest.mark.parametrize("memory", FORMS, ids=str)
def test_reading_depends_on_the_state_and_leaves_it(memory):
    carry, (x, angle) = carry_of(memory), frames()
    with torch.no_grad():
        _, (early, late) = carry.write(x, carry.init(BATCH), [0, 3], turn_of(angle))
        kept = {name: value.clone() for name, value in late.items()}
        first, again = (carry.read(x, late, turn_of(angle)) for _ in range(2))
        other = carry.read(x, early, turn_of(angle))
    assert torch.equal(first, again)
    assert all(torch.equal(kept[name], late[name]) for name in kept)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("memory", FORMS, ids=str)
def test_nothing_is_added_at_birth_and_yet_something_is_learned(memory):
    torch.manual_seed(0)
    carry = memory.state(0, WIDTH, HEADS, (2, 2))
    assert carry is not None
    x, angle = frames()
    x, turn = x.float(), turn_of(angle.float())
    seen, (state,) = carry.write(x, carry.init(BATCH), [3], turn)
    assert seen.abs().max() == 0
    assert carry.read(x, state, turn).abs().max() == 0
    assert all(value.abs().max() > 0 for value in state.values())


@pytest.mark.parametrize("memory", FORMS, ids=str)
def test_rows_keep_their_norms_however_fast_they_learn(memory):
    carry, (x, angle) = carry_of(memory), frames(200)
    with torch.no_grad():
        carry.rates.bias.fill_(60.0)
        seen, (state,) = carry.write(x, carry.init(BATCH), [199], turn_of(angle))
    assert torch.isfinite(seen).all()
    fast = carry.born + state["moved"]
    for part, dim in (([0, 1], -1), ([2], -2)):
        norms = carry.born[:, part].norm(dim=dim)
        torch.testing.assert_close(fast[:, :, part].norm(dim=dim), norms.expand(BATCH, -1, -1, -1))


def test_no_step_moves_a_row_further_than_the_clip():
    """A step of at most c times a row's norm turns the row by at most arcsin c, and some do."""
    carry, (x, angle) = carry_of(TTT(clip=0.25)), frames(20)
    with torch.no_grad():
        carry.rates.bias.fill_(60.0)
        _, states = carry.write(x, carry.init(BATCH), range(20), turn_of(angle))
    fast = torch.stack([carry.born + state["moved"] for state in states])
    for part, dim in (([0, 1], -1), ([2], -2)):
        rows = torch.nn.functional.normalize(fast[:, :, :, part], dim=dim)
        turned = (rows[1:] * rows[:-1]).sum(dim).clamp(max=1).arccos()
        assert 0.2 < turned.max() <= math.asin(0.25) + 1e-6


def test_clipped_steps_keep_the_gradients_of_a_long_episode_small():
    """Where all steps are as long as they may be, a hundred frames blow gradients up; the shorter
    the steps, the less."""
    reach = []
    for clip in (None, 1.0, 0.5, 0.25, 0.1):
        carry, (x, angle) = carry_of(TTT(clip=clip)), frames(100)
        with torch.no_grad():
            carry.rates.bias.fill_(60.0)
        start = {name: value.requires_grad_() for name, value in carry.init(BATCH).items()}
        _, (state,) = carry.write(x, start, [99], turn_of(angle))
        (grad,) = torch.autograd.grad(state["moved"].square().sum(), start["moved"])
        reach.append(float(grad.norm()))
    assert reach == sorted(reach, reverse=True), reach
    assert reach[-1] < 1e3 < 1e20 < reach[0], reach


def test_a_step_with_muon_is_as_long_as_the_tokens_learn_fast():
    carry, (x, angle) = carry_of(TTT(muon=True)), frames(1)
    moved = []
    with torch.no_grad():
        carry.rates.weight.zero_()
        for rate in (1e-3, 2e-3):
            carry.rates.bias.fill_(torch.tensor(rate).expm1().log())
            _, (state,) = carry.write(x, carry.init(BATCH), [0], turn_of(angle))
            moved.append(state["moved"].norm())
    assert 1.9 < moved[1] / moved[0] < 2.1


def test_half_precision_keeps_the_state_in_fp32():
    carry, (x, angle) = carry_of(TTT(momentum=0.9, muon=True)).float(), frames()
    x, turn = x.float(), turn_of(angle.float())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen, (state,) = carry.write(x, carry.init(BATCH), [3], turn)
        read = carry.read(x, state, turn)
    assert all(value.dtype == torch.float32 for value in state.values())
    assert seen.dtype == read.dtype == torch.float32
    with torch.no_grad():
        exact, _ = carry.write(x, carry.init(BATCH), [3], turn)
    torch.testing.assert_close(seen, exact, atol=0.2, rtol=0.2)


@pytest.mark.parametrize("name", ["ttt", "ttt-muon"])
def test_the_state_does_not_grow(name):
    model = tiny_world(ROWS[name])
    dit, parts = model.config.dit, 1 if ROWS[name].momentum is None else 2
    each = dit.num_heads * 3 * dit.head_dim**2
    assert sizes_over_ten_frames(model) == {parts * dit.num_layers * each * 4}


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"window": 0}, "window"), ({"every": 0}, "N-th"), ({"expand": 0}, "expand"),
        ({"rate": 0.0}, "rate"), ({"rate": -1.0}, "rate"), ({"momentum": 1.0}, "momentum"),
        ({"momentum": 0.0}, "momentum"), ({"clip": 0.0}, "clip"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, word):
    with pytest.raises(LociError, match=f"ttt memory: .*{word}") as caught:
        TTT(**settings)
    assert "\n" not in str(caught.value)
