"""Figures of papers, written down by hand."""

from __future__ import annotations

import torch


def figure_3() -> torch.Tensor:
    """The published mask for three frames, A = R = 1, L = 2, M = 1, one action and no noise.

    Order: f0 f0 g0 f1 f1 g1 f2 f2 g2 a0 a1 a2, written down by hand from the paper's figure.
    """
    rows = """
    111000000000
    111000000000
    111000000000
    111111000000
    111111000000
    111111000000
    111001111000
    111001111000
    111001111000
    111000000100
    111111000010
    111001111001
    """
    return torch.tensor([[c == "1" for c in row] for row in rows.split()])
