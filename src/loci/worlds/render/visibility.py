"""What was visible where, decided by exact depth: occlusion included, and without a model.

`seen_before` splits the pixels of later frames; `visibility`, `covered` and `best_frames` score a
rule that retrieves frames by what they show. Source: the split of spatial memory benchmarks by
exact depth (SPMem, arXiv 2506.05284, in kind); the scores are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loci.errors import LociError
from loci.geometry import Camera

DEPTH_TOLERANCE = 0.05
"""Relative depth error below which two views hold the same surface point. Half a pixel of rounding
moves the depth of a floor seen at a grazing angle by about 4 % in these rooms."""


def seen_before(
    depth: np.ndarray,
    poses: np.ndarray,
    observed: int,
    camera: Camera,
    tolerance: float = DEPTH_TOLERANCE,
) -> np.ndarray:
    """Which pixels of frames `observed`.. show a surface point visible in some frame before it.

    depth (T, H, W) metres along the optical axis, poses (T, 4, 4) camera-to-world. Returns boolean
    (T - observed, H, W). A point counts as seen where it projects into an observed frame whose
    depth there agrees within `tolerance` (relative): behind an object is not seen.
    """
    if not 0 < observed <= len(poses):
        raise LociError(f"{observed} observed of {len(poses)} frames; observe at least the first")
    rays = camera.rays()
    rays = (rays / rays[..., 2:]).reshape(-1, 3)
    past = np.linalg.inv(poses[:observed])
    height, width = camera.height, camera.width
    seen = np.zeros((len(poses) - observed, height * width), dtype=bool)
    for row, frame in enumerate(range(observed, len(poses))):
        pixels = rays * depth[frame].reshape(-1, 1)
        points = pixels @ poses[frame, :3, :3].T + poses[frame, :3, 3]
        missing = np.flatnonzero(np.isfinite(depth[frame].reshape(-1)))
        # The closest past pose first: on a mirrored path it settles every pixel at once.
        order = np.argsort(np.abs(poses[:observed] - poses[frame]).sum(axis=(1, 2)), kind="stable")
        for index in order:
            if not len(missing):
                break
            local = points[missing] @ past[index, :3, :3].T + past[index, :3, 3]
            z = np.where(local[:, 2] > 1e-6, local[:, 2], np.inf)
            column = np.floor(local[:, 0] / z * camera.focal + width / 2)
            line = np.floor(local[:, 1] / z * camera.focal + height / 2)
            inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
            inside &= np.isfinite(z)
            kept = np.flatnonzero(inside)
            there = depth[index][line[kept].astype(int), column[kept].astype(int)]
            hit = np.zeros(len(missing), dtype=bool)
            hit[kept] = np.abs(there - z[kept]) <= tolerance * z[kept]
            seen[row, missing[hit]] = True
            missing = missing[~hit]
    return seen.reshape(-1, height, width)


def visibility(depth: np.ndarray, poses: np.ndarray, begin: int, camera: Camera) -> np.ndarray:
    """Which pixels of frames `begin`.. each earlier frame shows, booleans (T, T - begin, H, W).

    depth (T, H, W) in metres, poses (T, 4, 4) camera-to-world. Entry [n, t] is about frame
    begin + t, and false where that is no later than n.
    """
    frames = len(poses)
    table = np.zeros((frames, frames - begin, *depth.shape[1:]), bool)
    for n in range(frames - 1):
        ahead = np.r_[n, max(begin, n + 1) : frames]
        table[n, ahead[1] - begin :] = seen_before(depth[ahead], poses[ahead], 1, camera)
    return table


def covered(shown: np.ndarray, frames: Sequence[int] | np.ndarray) -> int:
    """How many pixels at least one of `frames` shows; shown (N, ...) holds those of each frame."""
    return int(shown[np.asarray(frames, int)].any(axis=0).sum())


def best_frames(shown: np.ndarray, count: int) -> list[int]:
    """What a rule would retrieve that knew what each of N past frames shows of a chunk.

    shown (N, ...) booleans. min(count, N - 2) frames, taken greedily by the pixels that they add to
    the first, the last and those taken; of equals the later. Greedy is no strict bound: the best
    set may show more, at most 1 / (1 - 1/e) times what the greedy one adds.
    """
    shown = shown.reshape(len(shown), -1)
    missing = ~(shown[0] | shown[-1])
    picks: list[int] = []
    for _ in range(min(count, max(len(shown) - 2, 0))):
        gain = shown[:, missing].sum(axis=1)
        gain[[0, -1, *picks]] = -1
        picks.append(len(gain) - 1 - int(gain[::-1].argmax()))
        missing &= ~shown[picks[-1]]
    return picks
