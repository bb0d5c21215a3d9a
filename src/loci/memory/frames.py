"""Frames and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

from torch import Tensor

from loci.errors import LociError
from loci.geometry.depth import check_depth, check_intrinsics
from loci.geometry.scene_map import View


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


def check_geometry(frames: Frames, written: Sequence[int]) -> None:
    """LociError for depth, intrinsics and images, where frames bring some, that a map cannot take
    in; written: frames that the streams of their rows have seen. The first has to have depth."""
    depth, matrix, images = frames.depth, frames.intrinsics, frames.images
    if depth is None or matrix is None:
        return
    if images is not None and depth.shape[2:] != images.shape[2:4]:
        raise LociError(
            f"depth of {depth.shape[2]}x{depth.shape[3]} and images of {images.shape[2]}x"
            f"{images.shape[3]}; give one number for each pixel"
        )
    for row, at in enumerate(written):
        check_depth(depth[row, :1], unknown=at > 0)
        check_depth(depth[row], unknown=True)
        check_intrinsics(matrix[row], *depth.shape[2:])


def views(frames: Frames, row: int, number: int) -> Iterator[View]:
    """What the frames of a row show, those of known depth; number: of the first one. Without images
    they have no payload."""
    depth, matrix, images = frames.depth, frames.intrinsics, frames.images
    if depth is None or matrix is None:
        return
    payload = depth.new_zeros(*depth.shape, 0).byte() if images is None else images
    for n in range(len(frames)):
        if bool((depth[row, n] > 0).any()):
            yield View(
                depth[row, n], payload[row, n], matrix[row, n], frames.poses[row, n], number + n
            )
