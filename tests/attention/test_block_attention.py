"""Attention of blocks is `scaled_dot_product_attention`, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loci.attention import block as block_attention
from loci.attention.block import attend


def case(
    sizes: tuple[int, int, int, int, int], wide: bool | None, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Tensor | None]:
    """Queries, keys and values of sizes (B, N, P, S, d), laid out as `Windowed` has them, and what
    hides half of the keys: of each query (wide), of all of a row, or none (None)."""
    rows, heads, queries, keys, width = sizes
    draw = torch.Generator().manual_seed(0)
    parts = [
        (2 * torch.randn(rows, count, heads, width, generator=draw, dtype=torch.float64))
        .to(dtype).transpose(1, 2).requires_grad_()
        for count in (queries, keys, keys)
    ]
    if wide is None:
        return parts, None
    seen = torch.rand(rows, 1, queries if wide else 1, keys, generator=draw) < 0.5
    seen[..., 0] = True
    return parts, torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)


def gradients(seen: Tensor, parts: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, seen.numel(), dtype=torch.float64).view_as(seen)
    return [seen, *torch.autograd.grad((seen * weights).sum(), parts)]


def reference(parts: list[Tensor], bias: Tensor | None) -> list[Tensor]:
    """The fused kernel in fp64."""
    exact = [part.detach().double().requires_grad_() for part in parts]
    mask = None if bias is None else bias.double()
    return gradients(F.scaled_dot_product_attention(*exact, mask), exact)


def error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest relative error (Frobenius) of a value or gradient; of one that is zero, which
    rounding hides, the absolute error in hundredths."""
    pairs = [(a.detach().double(), b.detach()) for a, b in zip(found, wanted, strict=True)]
    return max(float((a - b).norm() / b.norm().clamp(min=1e-2)) for a, b in pairs)


@given(
    sizes=st.tuples(*(st.integers(1, top) for top in (5, 6, 7, 9, 4))),
    wide=st.sampled_from([None, False, True]),
    tile=st.integers(1, 300), kept=st.sampled_from([0, 1 << 20]),
)
@settings(deadline=None, max_examples=60)
def test_it_is_the_fused_kernel_however_it_is_cut(sizes, wide, tile, kept):
    parts, bias = case(sizes, wide)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_attention, "TILE", tile)
        patch.setattr(block_attention, "KEPT", kept)
        found = gradients(attend(*parts, bias), parts)
    assert error(found, reference(parts, bias)) < 1e-12


@pytest.mark.parametrize("autocast", [False, True])
def test_in_bf16_it_is_as_exact_as_the_fused_kernel(autocast):
    """Scores are never rounded to bf16, nor are fp32 queries taken as they are under autocast."""
    parts, bias = case((3, 4, 16, 40, 32), True, torch.bfloat16)
    given = [part.detach().float().requires_grad_() for part in parts] if autocast else parts
    wanted = reference(parts, bias)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = attend(*given, bias)
    assert ours.dtype == torch.bfloat16
    theirs = F.scaled_dot_product_attention(*parts, bias.bfloat16())
    limit = 1.5 * error(gradients(theirs, parts), wanted)
    assert error(gradients(ours, given), wanted) < limit < 0.02


def test_many_weights_are_not_kept():
    """Of a call with many weights the backward pass holds what went in, and nothing of their
    size."""
    held: list[Tensor] = []

    def hold(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    few, many = (2, 2, 16, 16, 4), (2, 2, 1100, 1000, 4)
    for sizes, most in ((few, 2 * 2 * 16 * 16), (many, 2 * 2 * 1100 * 4)):
        held.clear()
        parts, _ = case(sizes, None, torch.bfloat16)
        with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
            attend(*parts)
        assert max(tensor.numel() for tensor in held) == most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backward_gives_the_same_bits_every_time(dtype):
    parts, bias = case((8, 4, 20, 60, 32), True, dtype)
    first, second = (gradients(attend(*parts, bias), parts) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
