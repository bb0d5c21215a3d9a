"""Is the object that comes back the one that was there, and is it in its place?"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from loci.data.truth import Truth
from loci.study.estimates import Tally
from loci.study.rooms.metrics import best_shift, in_place, nearest_candidate

SHARES = ("identity", "layout", "which", "there", "event")


@dataclass(frozen=True)
class ObjectScore:
    """One object: what it was taken for, and by how many pixels it is off (right, down).

    absence: frames that it was out of view; travelled: metres that the camera went meanwhile.
    box: left, top, right, bottom of its true mask in pixels, the last two exclusive.
    """

    index: int
    group: str
    frame: int
    label: str
    taken_for: str
    identity: bool
    shift: tuple[int, int]
    layout: bool
    absence: int
    travelled: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class CaseScore:
    """Everything measured on one case of one row."""

    metrics: dict[str, Tally] = field(default_factory=dict)
    objects: tuple[ObjectScore, ...] = ()

    def to_dict(self) -> dict:
        return {
            "metrics": {name: [t.total, t.count] for name, t in self.metrics.items()},
            "objects": [dict(vars(o)) for o in self.objects],
        }

    @classmethod
    def from_dict(cls, data: dict) -> CaseScore:
        objects = tuple(
            ObjectScore(**(o | {"shift": tuple(o["shift"]), "box": tuple(o["box"])}))
            for o in data["objects"]
        )
        return cls({name: Tally(*pair) for name, pair in data["metrics"].items()}, objects)


def tallies(**scores: float | None) -> dict[str, Tally]:
    """Scores of one case; those that are None had nothing to measure and count for nothing."""
    return {name: Tally(0.0, 0) if s is None else Tally(s) for name, s in scores.items()}


def score_objects(
    truth: Truth, video: np.ndarray, groups: tuple[str, ...]
) -> tuple[dict[str, Tally], tuple[ObjectScore, ...]]:
    """`identity_<group>` and `layout_<group>` of a video (T, H, W, 3), and every outcome."""
    scored = []
    for thing in truth.returns:
        frame = video[thing.frame]
        winner, _ = nearest_candidate(frame, thing.renderings, thing.region)
        lines, columns = np.nonzero(thing.mask)
        shift = best_shift(frame, truth.rgb[thing.frame], thing.mask)
        scored.append(
            ObjectScore(
                index=thing.index, group=thing.group, frame=thing.frame, label=thing.labels[0],
                taken_for=thing.labels[winner], identity=winner == 0, shift=shift,
                layout=in_place(shift), absence=thing.absence, travelled=thing.travelled,
                box=(
                    int(columns.min()), int(lines.min()),
                    int(columns.max()) + 1, int(lines.max()) + 1,
                ),
            )
        )
    metrics = {}
    for group in groups:
        members = [o for o in scored if o.group == group]
        metrics[f"identity_{group}"] = Tally(sum(o.identity for o in members), len(members))
        metrics[f"layout_{group}"] = Tally(sum(o.layout for o in members), len(members))
    return metrics, tuple(scored)
