"""The cameras of a robot in one picture.

As MemoryWAM lays them (arXiv 2606.20562): the first camera over the full width at the bottom, two
thirds of the height; the others side by side above it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from loci.errors import LociError, check_type
from loci.geometry import Camera


def mosaic(views: Sequence[np.ndarray], camera: Camera) -> np.ndarray:
    """One picture of `camera`'s size from those of one or three cameras, uint8 (T, h, w, 3).

    Pictures are resized to their places. Raises LociError for arrays of another type, for another
    number of cameras, and for a size that cannot be divided into the places.
    """
    for view in views:
        check_type(view, np.ndarray, "a camera's pictures", "a numpy array, uint8 (T, H, W, 3)")
        if view.dtype != np.uint8 or view.ndim != 4 or view.shape[-1] != 3:
            raise LociError(
                f"a camera's pictures are {view.dtype} {view.shape}; give uint8 RGB, (T, H, W, 3)"
            )
    height, width = camera.height, camera.width
    if len(views) == 1:
        return _resized(views[0], height, width)
    if len(views) != 3 or height % 3 or width % 2:
        raise LociError(
            f"{len(views)} cameras in a mosaic of {height}x{width}; give one camera, or three and "
            "a height that is a multiple of 3 and an even width"
        )
    head, *wrists = views
    above = [_resized(view, height // 3, width // 2) for view in wrists]
    below = _resized(head, height - height // 3, width)
    return np.concatenate([np.concatenate(above, axis=2), below], axis=1)


def _resized(view: np.ndarray, height: int, width: int) -> np.ndarray:
    if view.shape[1:3] == (height, width):
        return view
    images = torch.from_numpy(view).permute(0, 3, 1, 2).float()
    images = F.interpolate(
        images, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
