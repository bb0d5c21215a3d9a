"""Rays, and where they landed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, eq=False)
class Rays:
    """Unit directions (3, N), world axes, from several origins (T, 3), metres.

    Those of origin t are at starts[t] to starts[t + 1].
    """

    directions: np.ndarray
    origins: np.ndarray
    starts: np.ndarray

    def spans(self, index: np.ndarray | None = None) -> list[slice]:
        """Every origin's part of the rays, or of ascending ray numbers `index`."""
        ends = self.starts if index is None else np.searchsorted(index, self.starts)
        return [slice(a, b) for a, b in pairwise(ends.tolist())]


@dataclass(frozen=True, eq=False)
class Hits:
    """Where N rays landed.

    geom (N,) intp, -1 where nothing was hit; distance (N,) metres, inf there; `solid` (S,) are the
    rays that landed on a solid, and `normal` (S, 3) the surface's unit normals there.
    """

    geom: np.ndarray
    distance: np.ndarray
    solid: np.ndarray
    normal: np.ndarray


def along(axis: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Dot product of `axis` (3,) with every column of `points` (3, ...).

    Zeros of the axis, which most walls have, cost nothing.
    """
    terms = [a * p for a, p in zip(axis.tolist(), points, strict=True) if a]
    return sum(terms[1:], terms[0])
