"""Matrices made orthogonal by Newton-Schulz rounds: for steps of test-time training and of Muon."""

from __future__ import annotations

import torch
from torch import Tensor

# Quintic Newton-Schulz coefficients: they push all singular values into about 0.7 .. 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def orthogonalise(matrices: Tensor, rounds: int = _ROUNDS) -> Tensor:
    """The nearest (semi-)orthogonal matrices of (..., rows, cols), roughly: U V' of their SVDs."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).flatten(0, -3)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).view(matrices.shape)
