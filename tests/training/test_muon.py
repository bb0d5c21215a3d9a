"""Muon: orthogonal updates for the matrices inside blocks, AdamW for the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from loci.memory.newton_schulz import orthogonalise
from loci.training.muon import Muon, build_optimizer
from loci.training.train_config import TrainConfig

CONFIG = TrainConfig(steps=10, lr=1e-2, muon=0.05, betas=(0.9, 0.95), weight_decay=0.1)


class Net(nn.Module):
    """Matrices of two shapes and a vector inside blocks, the same outside, a frozen part."""

    def __init__(self):
        super().__init__()
        self.entry = nn.Linear(4, 6)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.blocks.append(nn.Linear(6, 3))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for block in self.blocks:
            x = block(x.tanh())
        return self.frozen(x)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def backward(net: Net, seed: int = 1) -> None:
    torch.manual_seed(seed)
    net.zero_grad()
    net(torch.randn(16, 4)).square().mean().backward()


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24), st.integers(0, 1000))
def test_singular_values_come_near_one(count, rows, cols, seed):
    torch.manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(count, rows, cols), full_matrices=False)
    spread = torch.linspace(0.2, 1.0, min(rows, cols))
    matrices = (u * spread) @ vh
    result = orthogonalise(matrices)
    assert result.shape == matrices.shape
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6
    assert values.max() < 1.3
    # The same singular vectors: U' X V is diagonal.
    core = u.mT @ result @ vh.mT
    off = core - torch.diag_embed(core.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-3
    torch.testing.assert_close(orthogonalise(8 * matrices), result, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(orthogonalise(matrices.mT), result.mT, atol=1e-4, rtol=1e-4)


def test_nothing_stays_nothing():
    assert torch.equal(orthogonalise(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_groups_are_matrices_outside_vectors_and_matrices_inside(net):
    optimizer = build_optimizer(net, CONFIG)
    outside, vectors, inside = optimizer.param_groups
    assert [id(p) for p in outside["params"]] == [id(net.entry.weight)]
    assert [id(p) for p in inside["params"]] == [id(block.weight) for block in net.blocks]
    assert len(vectors["params"]) == 4
    assert [g["weight_decay"] for g in (outside, vectors, inside)] == [0.1, 0.0, 0.1]
    assert inside["scale"] * CONFIG.lr == pytest.approx(0.05)
    assert inside["muon"]
    assert not outside.get("muon")
    plain = build_optimizer(net, TrainConfig(steps=10))
    assert len(plain.param_groups) == 2
    assert not any(g.get("muon") for g in plain.param_groups)


def test_a_step_is_adamw_outside_and_orthogonal_inside(net):
    reference = copy.deepcopy(net)
    optimizer = build_optimizer(net, CONFIG)
    for group in optimizer.param_groups:
        group["lr"] = CONFIG.lr * group["scale"]
    outside = [p for n, p in reference.named_parameters() if "blocks" not in n or "bias" in n]
    adam = torch.optim.AdamW(
        [{"params": [p for p in outside if p.requires_grad and p.dim() > 1], "weight_decay": 0.1},
         {"params": [p for p in outside if p.requires_grad and p.dim() == 1], "weight_decay": 0.0}],
        lr=CONFIG.lr, betas=CONFIG.betas,
    )
    momentum = {n: torch.zeros_like(p) for n, p in reference.named_parameters()}
    frozen = net.frozen.weight.clone()
    for step in range(3):
        backward(net, step)
        backward(reference, step)
        optimizer.step()
        adam.step()
        for name, parameter in reference.blocks.named_parameters():
            if parameter.dim() == 1:
                continue
            buffer = momentum["blocks." + name]
            assert parameter.grad is not None
            buffer.mul_(0.95).add_(parameter.grad, alpha=0.05)
            update = orthogonalise(parameter.grad.mul(0.05).add(buffer, alpha=0.95)[None])[0]
            rate = 0.05 * 0.2 * max(parameter.shape) ** 0.5
            with torch.no_grad():
                parameter.mul_(1 - 0.05 * 0.1).sub_(update, alpha=rate)
        expected = weights(reference)
        for name, value in weights(net).items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)
    assert torch.equal(net.frozen.weight, frozen)
    assert len(optimizer.param_groups) == 3


def test_what_has_no_gradient_stays(net):
    optimizer = build_optimizer(net, CONFIG)
    backward(net)
    net.blocks[1].weight.grad = None
    net.entry.weight.grad = None
    before = weights(net)
    optimizer.step()
    moved = {n for n, p in weights(net).items() if not torch.equal(p, before[n])}
    still = {"blocks.1.weight", "entry.weight", "frozen.weight", "frozen.bias"}
    assert moved == before.keys() - still


def test_state_continues_where_it_was(net):
    optimizer = build_optimizer(net, CONFIG)
    backward(net, 0)
    optimizer.step()
    twin = copy.deepcopy(net)
    resumed = build_optimizer(twin, CONFIG)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for module, optimiser in ((net, optimizer), (twin, resumed)):
        backward(module, 1)
        optimiser.step()
    for name, value in weights(net).items():
        assert torch.equal(value, weights(twin)[name]), name


def test_a_closure_is_called_once_and_groups_survive_an_error(net):
    optimizer = build_optimizer(net, CONFIG)

    def closure() -> float:
        assert torch.is_grad_enabled()
        backward(net)
        return 3.0

    before = weights(net)
    assert optimizer.step(closure) == 3.0
    assert not torch.equal(net.blocks[0].weight, before["blocks.0.weight"])
    only = Muon([{"params": [net.blocks[0].weight], "muon": True, "weight_decay": 0.0}],
                lr=0.1, betas=(0.9, 0.99))
    backward(net)
    before = weights(net)
    only.step()
    assert [n for n, p in weights(net).items() if not torch.equal(p, before[n])] == [
        "blocks.0.weight"
    ]
    net.entry.weight.grad = torch.zeros(6, 4).to_sparse()
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert len(optimizer.param_groups) == 3
