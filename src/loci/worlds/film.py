"""What an episode looked like: the cameras' mosaic, with chunk, cue and outcome written below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from loci.io.captions import INK, SOFT, captioned

# Control steps from one picture to the next, pictures a second, and how often the last one is seen.
FILM_EVERY, FILM_FPS, LAST = 4, 10, 12
AMBER, GREEN, RED = (240, 190, 90), (79, 227, 155), (255, 120, 105)


class Film:
    """The pictures of one episode, as they come. cue: what must be remembered, if it is known."""

    def __init__(self, cue: object = None):
        self.pictures: list[np.ndarray] = []
        self.cue = "" if cue is None else f"cue {', '.join(map(str, np.ravel(cue)))}"

    def add(
        self, view: np.ndarray, info: Mapping[str, Any], chunk: int, over: bool = False
    ) -> None:
        """Add a picture (H, W, 3) uint8. info: what the environment says; over: it is the last."""
        reached = [name for name, done in (info.get("stages") or {}).items() if done]
        state, color = reached[-1] if reached else "", SOFT
        if over:
            won = bool(info.get("is_success"))
            state = "success" if won else f"failed: {info.get('failure') or 'at the limit'}"
            color = GREEN if won else RED
        words = [(f"chunk {chunk}", self.cue, INK, AMBER), (state, "", color, color)]
        self.pictures += [captioned(view, words, magnify=4)] * (LAST if over else 1)

    def frames(self) -> np.ndarray:
        """All pictures, uint8 (T, H', W', 3)."""
        return np.stack(self.pictures)
