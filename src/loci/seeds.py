"""Seeds keyed by what they are for: never by row, rank or time."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def seed_for(seed: int, *parts: int | str) -> int:
    """A 63-bit seed for torch that belongs to `seed` and `parts`, unrelated to its neighbours."""
    text = ":".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def normal(shape: tuple[int, ...], seed: int, *parts: int | str) -> Tensor:
    """Standard normal noise of a shape, float32 on the CPU, that belongs to `seed` and `parts`."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_for(seed, *parts)))


def chunk_noise(study_seed: int, key: str, chunk: int, shape: tuple[int, ...]) -> Tensor:
    """Noise (frames, C, h, w) of one chunk of one case: the same for every row of a study."""
    return normal(shape, study_seed, "noise", key, chunk)
