"""How much of what was seen before the frames that a chunk retrieves really show.

Visibility is exact: by depth, occlusion included, as `metrics.seen_before` defines it. So this
scores a retrieval rule alone, without a model. Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loci.geometry import Camera
from loci.study.rooms.metrics import seen_before


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
