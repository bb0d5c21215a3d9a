"""Ridge regression in its dual form: for states of any size, whose inner products are all it takes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

# Ridge strengths, in units of the mean variance along a direction of the states.
STRENGTHS = 10.0 ** np.arange(-4.0, 4.5, 0.5)


def products(states: Mapping[str, Tensor], fitted: int, count: int) -> np.ndarray:
    """Inner products (count, fitted) of states with the first `fitted` ones, around their mean.

    Each tensor {name: (count, numbers)} counts alike: its variances sum to one.
    """
    total = torch.zeros(count, fitted, dtype=torch.float64)
    for values in states.values():
        centred = values - values[:fitted].mean(dim=0)
        spread = float(centred[:fitted].square().mean(dim=0).sum())
        if spread > 0:
            total += (centred @ centred[:fitted].mT).double() / spread
    return total.numpy()


def ridge(kernel: np.ndarray, unseen: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Ridge regression from inner products: predictions (n, q).

    kernel (m, m) of the fitted states, unseen (n, m) of the others with them, targets (m, q). Of
    STRENGTHS, the one that predicts each target best from all others is taken (Hastie et al., The
    Elements of Statistical Learning, Section 7.10).
    """
    mean, rows = targets.mean(axis=0), kernel.mean(axis=0)
    inner = kernel - rows - rows[:, None] + rows.mean()
    outer = unseen - rows - unseen.mean(axis=1, keepdims=True) + rows.mean()
    values, vectors = np.linalg.eigh(inner)
    values = values.clip(min=0)
    if values.sum() <= 0:
        return np.broadcast_to(mean, (len(unseen), len(mean)))
    rotated, best = vectors.T @ (targets - mean), (np.inf, 0.0)
    for strength in STRENGTHS * values.mean():
        shrink = values / (values + strength)
        left = targets - mean - vectors @ (shrink[:, None] * rotated)
        weight = 1 - 1 / len(targets) - np.square(vectors) @ shrink
        error = float(np.square(left / weight.clip(min=1e-9)[:, None]).sum())
        best = min(best, (error, float(strength)))
    return mean + outer @ vectors @ (rotated / (values + best[1])[:, None])
