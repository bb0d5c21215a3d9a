"""Which part of a dataset is held out: decided by each name alone, so that what is added later
moves nothing from one side to the other."""

from __future__ import annotations

import hashlib


def split_draw(name: str) -> float:
    """A number in 0..1 for a scene or an episode: below the share that is held out, it is."""
    return int(hashlib.sha256(f"loci split {name}".encode()).hexdigest()[:8], 16) / 16**8
