"""State-space rows against direct loops over the paper's equations, and what their settings do."""

from __future__ import annotations

import pytest
import torch

from loci.errors import LociError
from loci.memory import ROWS
from loci.memory.shortconv import ShortConv
from loci.memory.ssm import BlockSSM
from oracles import same_in_value_and_gradient, sizes_over_ten_frames
from tiny_world import STILL, data, tiny_world

WIDTH, GRID, BATCH = 6, (2, 2), 2
PLACES = GRID[0] * GRID[1]
FORMS = [BlockSSM(), BlockSSM(residual="scale"), ShortConv(), ShortConv(kernel=5)]


def carry_of(memory):
    """The carry of block 0, every weight random."""
    torch.manual_seed(0)
    carry = memory.state(0, WIDTH, 2, GRID)
    with torch.no_grad():
        for parameter in carry.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    return carry


def frames(count: int, seed: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(BATCH, count, PLACES, WIDTH)


def sigmoid(x):
    return 1 / (1 + (-x).exp())


def oracle(carry, x):
    """Echo-Memory's equations, one place and one frame after the other."""
    p = dict(carry.named_parameters())
    win, bin_ = p["in_proj.weight"], p["in_proj.bias"]
    wout, bout = p["out_proj.weight"], p["out_proj.bias"]
    rows = []
    for b in range(BATCH):
        for place in range(PLACES):
            s, past, line = torch.zeros(WIDTH), [], []
            for t in range(x.shape[1]):
                now = x[b, t, place]
                if "dw.weight" in p:
                    past.append(win @ now + bin_)
                    kernel = p["dw.weight"][:, 0]
                    size = kernel.shape[1]
                    c = p["dw.bias"]
                    for back in range(min(size, len(past))):
                        c = c + kernel[:, size - 1 - back] * past[-1 - back]
                    line.append(torch.tanh(p["gate"]) * (wout @ c + bout))
                    continue
                if "gate" not in p:
                    centred = now - now.mean()
                    now = centred / (centred.square().mean() + 1e-5).sqrt()
                    now = now * p["norm.weight"] + p["norm.bias"]
                both = win @ now + bin_
                a = sigmoid(p["decay_logit"])
                s = a * s + (1 - a) * torch.tanh(both[:WIDTH])
                y = wout @ (sigmoid(both[WIDTH:]) * s) + bout
                scale = torch.tanh(p["gate"]) if "gate" in p else (
                    0.1 + 0.1 * sigmoid(p["residual_logit"])
                )
                line.append(scale * y)
            rows.append(torch.stack(line))
    return torch.stack(rows).view(BATCH, PLACES, -1, WIDTH).transpose(1, 2)


@pytest.mark.parametrize("memory", FORMS, ids=str)
def test_it_equals_the_equations_in_value_and_gradient(memory):
    carry, weigh = carry_of(memory), frames(12, seed=3)

    def written(x):
        return carry.write(x, carry.init(BATCH), [], STILL)[0]

    same_in_value_and_gradient(
        carry, (written, lambda x: oracle(carry, x)), frames(12), weigh
    )


@pytest.mark.parametrize("memory", FORMS, ids=str)
def test_all_at_once_is_one_after_the_other_and_a_reading_goes_on_from_there(memory):
    carry, x = carry_of(memory), frames(131)
    at = [0, 1, 64, 128]
    with torch.no_grad():
        y, states = carry.write(x, carry.init(BATCH), at, STILL)
        state, found = carry.init(BATCH), {}
        for t in range(x.shape[1]):
            seen, (state,) = carry.write(x[:, t : t + 1], state, [0], STILL)
            found[t] = state
            torch.testing.assert_close(seen[:, 0], y[:, t], atol=1e-5, rtol=1e-5)
        for t, here in zip(at, states, strict=True):
            for name, value in here.items():
                assert value.dtype == torch.float32
                torch.testing.assert_close(value, found[t][name], atol=1e-5, rtol=1e-5)
        # What is read after frame `at` is what the frames behind it would read.
        kept = {name: value.clone() for name, value in states[2].items()}
        ahead = x[:, 65:68]
        late, early = (carry.read(ahead, states[n], STILL) for n in (2, 0))
        torch.testing.assert_close(late, y[:, 65:68], atol=1e-5, rtol=1e-5)
        for name, value in kept.items():
            assert torch.equal(value, states[2][name])
        assert not torch.allclose(late, early)


def test_a_decay_near_0_or_1_stays_finite_over_a_long_episode():
    carry, x = carry_of(BlockSSM()), frames(300).requires_grad_()
    with torch.no_grad():
        carry.decay_logit.copy_(torch.tensor([-200.0, -30.0, 0.0, 12.0, 30.0, 200.0]))
    y, (state,) = carry.write(x, carry.init(BATCH), [299], STILL)
    y.square().sum().backward()
    for value in (y, state["s"], x.grad, carry.decay_logit.grad):
        assert torch.isfinite(value).all()
    # Without decay the state never moves; with all of it, it is the last frame.
    assert state["s"][..., 5].abs().max() == 0
    last = carry.in_proj(x[:, -1]).tanh()
    torch.testing.assert_close(state["s"][..., 0], last[..., 0])


def test_a_fresh_gate_changes_nothing_and_a_fresh_scale_is_015():
    x = frames(5)
    for memory in (BlockSSM(), ShortConv()):
        carry = memory.state(0, WIDTH, 2, GRID)
        assert carry.write(x, carry.init(BATCH), [], STILL)[0].abs().max() == 0
    carry = BlockSSM(residual="scale").state(0, WIDTH, 2, GRID)
    assert carry.decay_logit.sigmoid().eq(0.5).all()
    got = carry.write(x[:, :1], carry.init(BATCH), [], STILL)[0]
    u, g = carry.in_proj(carry.norm(x[:, :1])).chunk(2, dim=-1)
    torch.testing.assert_close(got, 0.15 * carry.out_proj(g.sigmoid() * 0.5 * u.tanh()))


def test_half_precision_keeps_the_state_in_fp32():
    carry = carry_of(BlockSSM())
    x = frames(5)
    with torch.no_grad():
        exact, (state,) = carry.write(x, carry.init(BATCH), [4], STILL)
        with torch.autocast("cpu", torch.bfloat16):
            y, (rough,) = carry.write(x, carry.init(BATCH), [4], STILL)
    assert rough["s"].dtype == torch.float32
    torch.testing.assert_close(rough["s"], state["s"], atol=0.03, rtol=0.03)
    torch.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.1)


def predict(model):
    latents, poses = data(model)
    session = model.session(2)
    with torch.no_grad():
        session.write(latents[:, :8], poses[:, :8])
        return session.denoise(session.read(poses[:, 8:10]), latents[:, 8:10], 0.5)


@pytest.mark.parametrize(
    "changed", [{"context": 3}, {"context": 0}, {"hint": 3}, {"every": 1}, {"every": 3}], ids=str
)
def test_each_ablation_changes_what_is_computed(changed):
    """With the same weights wherever both have any, and open gates."""
    base = tiny_world(BlockSSM(), layers=3)
    for carry in base.states.values():
        carry.gate.data.fill_(1.0)
    other = tiny_world(BlockSSM(**changed), layers=3)
    shared = base.state_dict()
    other.load_state_dict(other.state_dict() | {
        name: shared[name] for name in other.state_dict() if name in shared
    })
    assert (predict(base) - predict(other)).abs().max() > 1e-4


def test_every_says_which_blocks_carry():
    for every, blocks in ((1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (4, [0, 4])):
        for memory in (BlockSSM(every=every), ShortConv(every=every)):
            found = [n for n in range(-1, 5) if memory.state(n, WIDTH, 2, GRID) is not None]
            assert found == blocks


def test_a_state_brings_back_what_attention_has_let_go():
    """Frames 1 to 6 are out of sight of a chunk from 8 on: what it knows of them was carried."""
    model = tiny_world(BlockSSM(), layers=3)
    latents, poses = data(model)

    def after(first):
        session = model.session(2)
        with torch.no_grad():
            session.write(first[:, :8], poses[:, :8])
            return session.denoise(session.read(poses[:, 8:10]), latents[:, 8:10], 0.5)

    changed = latents.clone()
    changed[:, 3] += 1.0
    assert (after(latents) - after(changed)).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("memory", "settings", "word"),
    [
        (BlockSSM, {"every": 0}, "every"), (BlockSSM, {"hint": -1}, "hint"),
        (BlockSSM, {"context": -1}, "context"), (BlockSSM, {"residual": "gated"}, "'gate'"),
        (ShortConv, {"every": -2}, "every"), (ShortConv, {"hint": -1}, "hint"),
        (ShortConv, {"context": -1}, "context"), (ShortConv, {"kernel": 1}, "kernel"),
    ],
)
def test_bad_settings_are_refused_in_one_line(memory, settings, word):
    with pytest.raises(LociError, match=word) as caught:
        memory(**settings)
    assert "\n" not in str(caught.value)


def test_the_state_does_not_grow_and_its_size_is_that_of_the_grid():
    for name in (n for n in ROWS if isinstance(ROWS[n], BlockSSM | ShortConv)):
        model = tiny_world(ROWS[name])
        width = model.config.dit.dim
        each = 2 * 2 * width if isinstance(ROWS[name], ShortConv) else width
        total = len(model.states) * model.tokens * each * 4
        assert sizes_over_ten_frames(model) == {total}
