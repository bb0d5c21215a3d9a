"""Frames and where they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from torch import Tensor


@dataclass(frozen=True)
class Frames:
    """Latent frames and where they stand, in rows R.

    latents (R, K, C, h, w); poses (R, K, 4, 4) camera-to-world, relative to each stream's first
    frame; time (R, K) noise levels, 0 for clean ones. What a memory asks for besides
    (`Memory.wants`): depth (R, K, H, W) in metres along the camera's axis, 0 where it is unknown;
    intrinsics (R, K, 3, 3) in pixels; images (R, K, H, W, 3) uint8.
    """

    latents: Tensor
    poses: Tensor
    time: Tensor
    depth: Tensor | None = None
    intrinsics: Tensor | None = None
    images: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Frames:
        """All parts that are there, changed alike."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in parts.items() if v is not None})

    def __len__(self) -> int:
        return self.latents.shape[1]

    def __getitem__(self, which: slice) -> Frames:
        """Some of the frames of all rows."""
        return self.map(lambda part: part[:, which])


EXTRAS: dict[str, tuple[int | str, ...]] = {
    "depth": ("H", "W"), "intrinsics": (3, 3), "images": ("H", "W", 3),
}
"""What a memory may ask for besides latents and poses, and its shape after (R, K)."""
