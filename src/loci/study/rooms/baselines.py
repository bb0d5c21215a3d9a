"""Rows that need no model: floors that remember nothing, ceilings that nothing can pass.

"mean-image" answers every pose with the mean of training views, "first-frame" repeats the first
frame; "codec" is the truth through the codec (what the best model could show), "ground-truth" the
truth itself (what the metric gives at best).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from loci.data.truth import Truth
from loci.errors import LociError, did_you_mean
from loci.geometry import Camera
from loci.models.codecs.base import Codec
from loci.study.rooms.rollouts import batches
from loci.training.numerics import device_of
from loci.worlds.rooms.paths import make_path
from loci.worlds.rooms.room import sample_room

FLOORS = ("mean-image", "first-frame")
CEILINGS = ("codec", "ground-truth")
MEAN_ROOMS = 32


@lru_cache(maxsize=4)
def mean_image(camera: Camera) -> np.ndarray:
    """The mean (H, W, 3) uint8 of 256 training views: 32 rooms, 8 directions each."""
    views = []
    for seed in range(MEAN_ROOMS):
        room = sample_room(seed, "train")
        turn = make_path("loop360", room.start, seed, room).poses[:32:4]
        views.append(room.render(turn, camera).rgb.astype(np.float64).mean(axis=0))
    return np.round(np.mean(views, axis=0)).astype(np.uint8)


def baseline(
    name: str, truths: Sequence[Truth], camera: Camera, codec: Codec | None = None
) -> list[np.ndarray]:
    """Each case's video (T, H, W, 3): the given frames as they are, then the baseline's answer.

    Raises LociError for an unknown name, and for "codec" without one.
    """
    if name == "ground-truth":
        return [t.rgb for t in truths]
    if name == "mean-image":
        return [_after(t, mean_image(camera)) for t in truths]
    if name == "first-frame":
        return [_after(t, t.rgb[0]) for t in truths]
    if name != "codec":
        raise LociError(f"unknown baseline '{name}'{did_you_mean(name, FLOORS + CEILINGS)}")
    if codec is None:
        raise LociError("the codec's ceiling needs a codec; give one")
    videos: list[np.ndarray] = [np.empty(0)] * len(truths)
    for members in batches(truths):
        frames = torch.from_numpy(np.stack([truths[i].rgb for i in members]))
        with torch.inference_mode():
            rebuilt = codec.decode(codec.encode(frames.to(device_of(codec)))).cpu().numpy()
        for row, index in enumerate(members):
            videos[index] = _after(truths[index], rebuilt[row][truths[index].generated])
    return videos


def _after(truth: Truth, answer: np.ndarray) -> np.ndarray:
    video = truth.rgb.copy()
    video[truth.generated] = answer
    return video
