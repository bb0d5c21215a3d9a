"""Rotation of queries and keys by their angles, in pairs of neighbouring channels.

They only ever meet through the difference of their angles. Which angles a token has is said in
`models/rope.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

RotaryCosSin = tuple[Tensor, Tensor]
"""Cosines and sines of rotary angles, (B or 1, S, d / 2) each."""

# A constant that makes queries and keys codes of their angles, in the first channel of each pair:
# their scores become sums of cosines of the angles between tokens.
ALIGNED = 2.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel pairs of x (B, N, S, D) by the angles behind cos, sin (B or 1, S, D/2).

    A product of complex numbers, one pass over memory instead of seven, in fp32 at least: in half
    precision there is no such type, and rotary angles silently break.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    turn = torch.complex(cos, sin)[:, None].to(wide.dtype.to_complex())
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)
