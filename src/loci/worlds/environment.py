"""What a policy's episode is played in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

Observation = Mapping[str, Any]


class Environment(Protocol):
    """An environment whose pictures are rendered when they are asked for.

    `worlds.tabletop.env.Tabletop` is one; `Stepped` makes one of any other gymnasium environment in
    the field's convention.
    """

    def reset(self, *, seed: int | None = None) -> tuple[Observation, dict[str, Any]]: ...

    def advance(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """`step` without what is seen."""
        ...

    def observe(self) -> Observation:
        """{"pixels": {camera: uint8 (H, W, 3)}, "agent_pos": (P,)}."""
        ...


class Stepped:
    """A gymnasium environment whose steps always show something."""

    def __init__(self, env: Any):
        self.env = env
        self._seen: Observation = {}

    def reset(self, *, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        self._seen, info = self.env.reset(seed=seed)
        return self._seen, info

    def advance(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        self._seen, reward, ended, cut, info = self.env.step(action)
        return float(reward), ended, cut, info

    def observe(self) -> Observation:
        return self._seen
