"""The spatial token grid against loops over its equations, and what its read-outs do."""

from __future__ import annotations

import math

import pytest
import torch

from loci.errors import LociError
from loci.memory.spatial import SpatialGrid, pooling
from oracles import state_bytes
from tiny_world import STILL, data, tiny_world

WIDTH, HEADS, BATCH = 8, 2, 2
GRID = (3, 5)


def carries(memory, blocks: int = 2, grid=GRID):
    """All carries of a model, every weight random."""
    torch.manual_seed(0)
    found = {n: memory.state(n, WIDTH, HEADS, grid) for n in range(-1, blocks)}
    found = {n: carry for n, carry in found.items() if carry is not None}
    with torch.no_grad():
        for carry in found.values():
            for parameter in carry.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
    return found


def frames(count: int, seed: int = 1, grid=GRID) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(BATCH, count, grid[0] * grid[1], WIDTH)


def cells(x, side, grid=GRID):
    """Tokens (L, D) of one frame to side x side cells: each the mean of the tokens it touches."""
    rows, cols = grid
    out = []
    for i in range(side):
        for j in range(side):
            up, down = math.floor(i * rows / side), math.ceil((i + 1) * rows / side)
            left, right = math.floor(j * cols / side), math.ceil((j + 1) * cols / side)
            touched = [x[r * cols + c] for r in range(up, down) for c in range(left, right)]
            out.append(sum(touched) / len(touched))
    return torch.stack(out)


def attend(q, k, v):
    """One query vector over keys and values (T, D), head by head."""
    size, parts = WIDTH // HEADS, []
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        weights = torch.stack([q[part] @ row for row in k[:, part]]) / math.sqrt(size)
        weights = (weights - weights.max()).exp()
        parts.append((weights / weights.sum()) @ v[:, part])
    return torch.cat(parts)


def rms(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def oracle(carry, memory, clean, noisy):
    """What the tokens of a noisy chunk read after the clean frames, token by token."""
    p, out = dict(carry.named_parameters()), []
    for b in range(BATCH):
        mean = sum(cells(frame, memory.grid) for frame in clean[b]) / clean.shape[1]
        logits = next((v for n, v in p.items() if n.endswith("logits")), None)
        tokens = mean
        if logits is not None:
            mixes = logits.exp() / logits.exp().sum(-1, keepdim=True)
            tokens = torch.stack([sum(w * c for w, c in zip(row, mean, strict=True))
                                  for row in mixes])
        for x in noisy[b].flatten(0, 1):
            if memory.readout == "cross":
                (wq, wk, wv), (bq, bk, bv) = (
                    p[f"reader.attn.in_proj_{kind}"].chunk(3) for kind in ("weight", "bias")
                )
                seen = attend(wq @ x + bq, tokens @ wk.T + bk, tokens @ wv.T + bv)
                y = p["reader.attn.out_proj.weight"] @ seen + p["reader.attn.out_proj.bias"]
                out.append(torch.tanh(p["reader.gate"]) * y)
            else:
                centred = x - x.mean()
                x = centred / (centred.square().mean() + 1e-6).sqrt()
                x = x * p["norm.weight"] + p["norm.bias"]
                q = rms(p["q.weight"] @ x + p["q.bias"], p["norm_q.weight"])
                k = rms(tokens @ p["k.weight"].T + p["k.bias"], p["norm_k.weight"])
                seen = attend(q, k, tokens @ p["v.weight"].T + p["v.bias"])
                out.append(p["o.weight"] @ seen + p["o.bias"])
    return torch.stack(out).view_as(noisy)


@pytest.mark.parametrize(
    "memory",
    [
        SpatialGrid(), SpatialGrid(grid=2), SpatialGrid(grid=8, tokens=6),
        SpatialGrid(grid=2, tokens=3, readout="cross"), SpatialGrid(grid=4, readout="cross"),
    ],
    ids=str,
)
def test_it_equals_the_equations_in_value_and_gradient(memory):
    found, results = carries(memory), []
    grid, reader = found[-1], found[max(found)]

    def run(clean, noisy):
        seen, (state,) = grid.write(clean, grid.init(BATCH), [4], STILL)
        assert seen.abs().max() == 0
        return reader.read(noisy, state, STILL)

    for form in (run, lambda clean, noisy: oracle(reader, memory, clean, noisy)):
        clean, noisy = frames(5).requires_grad_(), frames(3, seed=2).requires_grad_()
        reader.zero_grad()
        y = form(clean, noisy)
        (y * frames(3, seed=3)).sum().backward()
        grads = {n: p.grad.clone() for n, p in reader.named_parameters()}
        results.append({"y": y.detach(), "clean": clean.grad, "noisy": noisy.grad} | grads)
    for name, value in results[1].items():
        torch.testing.assert_close(results[0][name], value, atol=1e-5, rtol=1e-5, msg=name)


def test_all_at_once_is_one_after_the_other_and_a_reading_leaves_no_trace():
    memory = SpatialGrid(grid=2, tokens=3, readout="cross")
    grid, x, at = carries(memory)[-1], frames(20), [0, 7, 19]
    with torch.no_grad():
        _, states = grid.write(x, grid.init(BATCH), at, STILL)
        state = grid.init(BATCH)
        for t in range(20):
            _, (state,) = grid.write(x[:, t : t + 1], state, [0], STILL)
            if t in at:
                for name, value in states[at.index(t)].items():
                    assert value.dtype == torch.float32
                    torch.testing.assert_close(value, state[name], atol=1e-5, rtol=1e-5)
        kept = {name: value.clone() for name, value in states[1].items()}
        first, again = (grid.read(frames(2, seed=4), states[1], STILL) for _ in range(2))
        assert torch.equal(first, again)
        assert all(torch.equal(kept[name], states[1][name]) for name in kept)
        assert not torch.allclose(first, grid.read(frames(2, seed=4), states[2], STILL))


def test_the_grid_is_two_dimensional():
    """A change of one corner of the frame reaches that corner's cell, and no other; in raster
    order it would spread along the row."""
    pool = pooling((4, 4), 2)
    assert torch.equal(pool.sum(1), torch.ones(4))
    assert pool[0].nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert pool[3].nonzero().flatten().tolist() == [10, 11, 14, 15]
    fine = pooling((4, 4), 8).argmax(1).view(8, 8)
    assert torch.equal(fine, torch.arange(16).view(4, 4).repeat_interleave(2, 0)
                       .repeat_interleave(2, 1))


@pytest.mark.parametrize("readout", ["cross", "concat", "none"])
def test_a_fresh_model_is_one_without_memory(readout):
    """All read-outs start from zero, so that the row starts as `none` does."""
    found = SpatialGrid(grid=2, readout=readout)
    for layer in range(-1, 3):
        carry = found.state(layer, WIDTH, HEADS, GRID)
        if carry is not None:
            state = {"sum": torch.randn(BATCH, 4, WIDTH), "count": torch.ones(BATCH)}
            assert carry.read(frames(2), state, STILL).abs().max() == 0


def test_a_withheld_grid_is_carried_and_never_read():
    model = tiny_world(SpatialGrid(readout="none"))
    latents, poses = data(model)
    outs, grids = [], []
    for shift in (0.0, 1.0):
        session = model.session(2)
        past = latents.clone()
        past[:, :7] += shift
        with torch.no_grad():
            session.write(past[:, :8], poses[:, :8])
            outs.append(session.denoise(session.read(poses[:, 8:10]), latents[:, 8:10], 0.5))
        grids.append(session.snapshot()["states.-1.sum"])
    assert torch.equal(*outs)
    assert not torch.allclose(*grids)
    assert not list(model.states[-1, ""].parameters())


@pytest.mark.parametrize("readout", ["cross", "concat"])
def test_a_grid_that_is_read_brings_back_what_attention_has_let_go(readout):
    model = tiny_world(SpatialGrid(readout=readout))
    latents, poses = data(model)
    outs = []
    for shift in (0.0, 1.0):
        session = model.session(2)
        past = latents.clone()
        past[:, 2] += shift
        with torch.no_grad():
            session.write(past[:, :8], poses[:, :8])
            outs.append(session.denoise(session.read(poses[:, 8:10]), latents[:, 8:10], 0.5))
    assert (outs[0] - outs[1]).abs().max() > 1e-5


def test_read_outs_differ():
    found = [
        carries(SpatialGrid(grid=2, tokens=tokens, readout=readout))
        for readout, tokens in (("cross", 3), ("cross", None), ("concat", 3), ("concat", None))
    ]
    x, noisy, outs = frames(4), frames(2, seed=2), []
    for family in found:
        _, (state,) = family[-1].write(x, family[-1].init(BATCH), [3], STILL)
        outs.append(family[max(family)].read(noisy, state, STILL))
    for i, one in enumerate(outs):
        for other in outs[:i]:
            assert not torch.allclose(one, other)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"grid": 0}, "grid"), ({"tokens": 0}, "tokens"), ({"readout": "crosss"}, "'cross'"),
        ({"readout": "none", "tokens": 4}, "never read"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, word):
    with pytest.raises(LociError, match=word) as caught:
        SpatialGrid(**settings)
    assert "\n" not in str(caught.value)


def test_the_state_is_the_grid_and_does_not_grow():
    model = tiny_world(SpatialGrid(grid=8, tokens=64))
    latents, poses = data(model)
    session = model.session(2)
    with torch.no_grad():
        session.write(latents[:, :3], poses[:, :3])
        before = state_bytes(session)
        session.write(latents[:, 3:], poses[:, 3:])
    assert state_bytes(session) == before == (64 * model.config.dit.dim + 1) * 4
