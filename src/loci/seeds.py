"""Seeds keyed by what they are for: never by row, rank or time."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, *parts: int | str) -> int:
    """A 63-bit seed for torch that belongs to `seed` and `parts`, unrelated to its neighbours."""
    text = ":".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
