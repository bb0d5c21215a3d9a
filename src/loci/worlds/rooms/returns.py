"""Objects that leave the view and come back, beside what could stand in their place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.morphology import dilation

from loci.geometry import Camera
from loci.worlds.rooms.room import Interior, Object, candidates

MIN_AREA = 40
"""Pixels of an object that must show for it to count as seen, and to be scored."""


@dataclass(frozen=True, eq=False)
class Return:
    """An object that comes back, at one frame, and eight things that could stand in its place.

    group: "first" was seen in frame 0, "later" only afterwards. absence: frames from its last sight
    on the way out to its first on the way back; travelled: metres that the camera went meanwhile.
    mask (H, W): where it is. region (H, W): the union of the candidates' masks and a pixel around
    it. renderings (8, H, W, 3) uint8, the true one first.
    """

    index: int
    group: str
    frame: int
    absence: int
    travelled: float
    mask: np.ndarray
    region: np.ndarray
    renderings: np.ndarray
    labels: tuple[str, ...]


def group_of(area: np.ndarray, out: int) -> str | None:
    """"first" or "later", for an object of which `area` (T,) pixels show: it had left the view at
    the end of the way out, of `out` frames. None for any other."""
    if area[out - 1] > 0:
        return None
    if area[0] >= MIN_AREA:
        return "first"
    return "later" if area[0] == 0 and area[:out].max() >= MIN_AREA else None


def label(thing: Object) -> str:
    """How an object is called in a report."""
    return f"{thing.color} {thing.shape}"


def returns(
    room: Interior,
    rgb: np.ndarray,
    identity: np.ndarray,
    poses: np.ndarray,
    out: int,
    camera: Camera,
    groups: tuple[str, ...],
) -> tuple[Return, ...]:
    """The objects that were seen on the way out, had left the view at its end, and came back."""
    found = []
    for index in range(len(room.objects)):
        masks = identity == index
        area = masks.sum(axis=(1, 2))
        group = group_of(area, out)
        if group not in groups:
            continue
        frame = clearest(masks[None], area[None], out)
        if frame is None:
            continue
        choices = candidates(room, index)
        renderings, region = [rgb[frame]], masks[frame].copy()
        for choice in choices[1:]:
            view = room.with_object(index, choice).render(poses[frame : frame + 1], camera)
            renderings.append(view.rgb[0])
            region |= view.identity[0] == index
        names = tuple(label(choice) for choice in choices)
        gone, back = np.flatnonzero(area[:out])[-1], np.flatnonzero(area[out:])[0] + out
        steps = np.linalg.norm(np.diff(poses[gone : back + 1, :3, 3], axis=0), axis=1)
        found.append(
            Return(
                index, group, frame, int(back - gone), float(steps.sum()), masks[frame],
                # One pixel more: outlines are smoothed, and blend into the pixel beside the mask.
                dilation(region, np.ones((3, 3))), np.stack(renderings), names,
            )
        )
    return tuple(found)


def clearest(masks: np.ndarray, areas: np.ndarray, out: int) -> int | None:
    """The frame of the way back that shows most of some things, each of them well enough, and all
    of them whole if there is such a frame; masks (N, T, H, W), areas (N, T) their pixels."""
    shown = np.flatnonzero((areas[:, out:] >= MIN_AREA).all(axis=0)) + out
    if not len(shown):
        return None
    inner = masks[:, :, 1:-1, 1:-1].sum(axis=(2, 3))
    whole = [frame for frame in shown if (inner[:, frame] == areas[:, frame]).all()]
    return int(max(whole or shown, key=lambda frame: (areas[:, frame].min(), -frame)))
