"""Procedural materials: a colour as a function of the hit point, soft enough for few pixels.

A pattern maps the surface coordinates (u, v), in metres, to a blend between two colours. Its edges
are blurred over the footprint of a pixel, so that a texture keeps still when the camera moves
instead of flickering. Source: ours; the footprint blur is the box filter of analytic antialiasing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loci.errors import LociError, did_you_mean

Color = tuple[float, float, float]
# (u, v, period, footprint), all in metres, to the share of the second colour, 0 to 1.
Pattern = Callable[[np.ndarray, np.ndarray, float, np.ndarray], np.ndarray]


def _step(distance: np.ndarray, width: np.ndarray) -> np.ndarray:
    """0 to 1 across an edge at distance 0, over `width` metres."""
    return np.clip(0.5 + distance / width, 0.0, 1.0)


def _triangle(x: np.ndarray) -> np.ndarray:
    """A wave of period 1 between 0 (at integers + 1/2) and 1/2 (at integers)."""
    return np.abs(x - np.floor(x) - 0.5)


def _bands(x: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    return _step((_triangle(x / period) - 0.25) * period, width)


def _plain(u: np.ndarray, v: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    return np.zeros_like(u)


def _rows(u: np.ndarray, v: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    return _bands(v, period, width)


def _columns(u: np.ndarray, v: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    return _bands(u, period, width)


def _checks(u: np.ndarray, v: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    a, b = _bands(u, period, width), _bands(v, period, width)
    return a + b - 2 * a * b


def _dots(u: np.ndarray, v: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    radius = np.hypot(_triangle(u / period), _triangle(v / period))
    return _step((0.3 - radius) * period, width)


def _gradient(u: np.ndarray, v: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(2 * np.pi * u / period)


def _bricks(u: np.ndarray, v: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    row = np.floor(v / (0.5 * period))
    upright = (0.5 - _triangle(u / period + 0.5 * (row % 2))) * period
    level = (0.5 - _triangle(v / (0.5 * period))) * 0.5 * period
    return _step(0.08 * period - np.minimum(upright, level), width)


def _zigzag(u: np.ndarray, v: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    return _bands(v + period * _triangle(u / period), period, width)


def _diamonds(u: np.ndarray, v: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    return _step((0.4 - _triangle(u / period) - _triangle(v / period)) * period, width)


def _rings(u: np.ndarray, v: np.ndarray, period: float, width: np.ndarray) -> np.ndarray:
    return _bands(np.hypot(u, v - 1.3), period, width)


PATTERNS: dict[str, Pattern] = {
    "plain": _plain,
    "rows": _rows,
    "columns": _columns,
    "checks": _checks,
    "dots": _dots,
    "gradient": _gradient,
    "bricks": _bricks,
    "zigzag": _zigzag,
    "diamonds": _diamonds,
    "rings": _rings,
}


@dataclass(frozen=True)
class Material:
    """Two colours, each (r, g, b) in [0, 1], and the pattern (a key of PATTERNS) that mixes them.

    `period` is the pattern's repeat in metres. The pattern lives in the first two coordinates of
    the geom's own frame, to which `offset` is added: where the geom is part of a larger surface.
    Raises LociError for an unknown pattern.
    """

    color: Color
    second: Color = (0.0, 0.0, 0.0)
    pattern: str = "plain"
    period: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self):
        if self.pattern not in PATTERNS:
            near = did_you_mean(self.pattern, PATTERNS)
            raise LociError(f"unknown pattern '{self.pattern}'{near}")
