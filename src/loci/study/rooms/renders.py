"""Rows that need no model but a map: what is drawn of the frames that were given, raw.

A picture of what a map shows from where the frames stand that are to be made: grey where nothing is
known, or filled with the nearest pixel that is. No model may claim what such a picture has already.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from loci.data.truth import Truth
from loci.geometry import relative_to
from loci.geometry.depth import intrinsics_of
from loci.geometry.scene_map import View
from loci.memory.map import Map, picture

# name -> the map, and whether its holes are filled.
RENDERS = {
    "render-2cm": (Map(voxel=0.02), False),
    "render-5cm": (Map(voxel=0.05), False),
    "render-10cm": (Map(voxel=0.1), False),
    "render-10cm-filled": (Map(voxel=0.1), True),
    "render-tsdf-10cm": (Map(voxel=0.1, form="tsdf"), False),
}


# The one that a report shows, and what it calls the pixels that its map covers.
SHOWN, KNOWN = "render-10cm", "known to the map"


def render(name: str, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """A case's video (T, H, W, 3), the given frames as they are and then the renders of RENDERS
    [name], and which of their pixels the map covers (n, H, W)."""
    memory, filled = RENDERS[name]
    depth, told = (torch.from_numpy(part) for part in truth.told)
    poses, colours = torch.from_numpy(truth.poses), torch.from_numpy(truth.rgb)
    told, poses = (relative_to(poses[None, 0], where[None])[0] for where in (told, poses))
    camera, place = truth.camera, memory.build(torch.device("cpu"))
    matrix = intrinsics_of(camera)
    for n in range(truth.observed):
        place.write(View(depth[n], colours[n], matrix, told[n], n))
    drawn = place.render(
        poses[truth.observed :], matrix, camera.height, camera.width, truth.observed
    )
    video, known = truth.rgb.copy(), np.stack([one.covered.numpy() for one in drawn])
    for n, one in enumerate(drawn):
        video[truth.observed + n] = picture(one).numpy()
        if filled and known[n].any():
            nearest = distance_transform_edt(
                ~known[n], return_distances=False, return_indices=True
            )
            video[truth.observed + n] = video[truth.observed + n][tuple(nearest)]
    return video, known


def known_pixels(truth: Truth, known: np.ndarray) -> np.ndarray:
    """What a map covers as a video (T, H, W, 3): white what it does, the given frames as they are.
    """
    video = truth.rgb.copy()
    video[truth.generated] = (known * np.uint8(255))[..., None]
    return video
