"""Rotation of queries and keys by their angles, in pairs of neighbouring channels.

They only ever meet through the difference of their angles. Which angles a token has is said in
`models/rope.py`. What is rotated by is called `rotary`: a complex number of length one for each
pair, (B or 1, S, d / 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

# A constant that makes queries and keys codes of their angles, in the first channel of each pair:
# their scores become sums of cosines of the angles between tokens.
ALIGNED = 2.0


def as_rotary(angles: Tensor) -> Tensor:
    """Angles (B or 1, S, d / 2) in radians as what `rotate` takes, in single precision."""
    return torch.complex(angles.cos().float(), angles.sin().float())


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate channel pairs of x (B, N, S, d) by `rotary` (B or 1, S, d / 2); by its conjugate they
    rotate back.

    A product of complex numbers, one pass over memory instead of seven, in fp32 at least: in half
    precision there is no such type, and rotary angles silently break.
    """
    wide = x.float() if x.element_size() < 4 else x
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary[:, None]).flatten(-2).to(x.dtype)
