"""Gradients of a batch computed in parts are those of the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from loci.training.microbatches import Parts


class Net(nn.Module):
    """A convolution whose weights do not lie in the order of their indices, and a spare layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.image = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.outer = nn.Linear(4, 2)
        self.unused = nn.Linear(2, 2)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        out = self.outer(self.image(batch["x"]).mean((2, 3)))
        error = (out - batch["y"]).square().mean()
        return error, {"double": 2 * float(error.detach())}


def a_batch(samples: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, 3, 8, 8, generator=draw).contiguous(memory_format=torch.channels_last)
    return {"x": x, "y": torch.randn(samples, 2, generator=draw)}


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_have_the_loss_and_gradients_of_the_whole(samples: int, threads: int) -> None:
    net, batch = Net(), a_batch(samples)
    whole, metrics = net.loss(batch)
    whole.backward()
    wanted = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    with Parts(threads) as parts:
        value, shares = parts.backward(net.loss, batch, list(net.parameters()))
    torch.testing.assert_close(value, whole.detach())
    assert not value.requires_grad
    assert shares["double"] == pytest.approx(metrics["double"], rel=1e-6)
    for name, p in net.named_parameters():
        if name.startswith("unused"):
            assert p.grad is None
            continue
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-5, atol=1e-7)
        assert p.grad.stride() == p.stride()


def test_as_many_threads_give_the_same_bits() -> None:
    net, batch, seen = Net(), a_batch(16), []
    for _ in range(5):
        with Parts(2) as parts:
            parts.backward(net.loss, batch, list(net.parameters()))
        seen.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_an_error_in_a_part_is_the_callers() -> None:
    def broken(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        raise ValueError("broken")

    with Parts(2) as parts, pytest.raises(ValueError, match="broken"):
        parts.backward(broken, a_batch(4), [])


def test_the_callers_threads_stay() -> None:
    before = torch.get_num_threads()
    net = Net()
    with Parts(3) as parts:
        parts.backward(net.loss, a_batch(6), list(net.parameters()))
    assert torch.get_num_threads() == before
