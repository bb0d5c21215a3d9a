"""Retention: identity against how long an object was out of view, and how far the camera went.

Later objects of the recall branch. Those of the first frame were gone longest, and a row that keeps
one anchor brings them back: with them, its curve would rise with absence. Source: ours; the curves
that benchmarks of spatial memory draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from loci.study.estimates import Tally, bootstrap
from loci.study.rooms.objects import CaseScore, ObjectScore

# What is on the axis, and the upper ends of its bins (inclusive).
AXES: dict[str, tuple[Callable[[ObjectScore], float], tuple[float, ...]]] = {
    "absence": (lambda thing: thing.absence, (8, 16, 24, 32, 64)),
    "travelled": (lambda thing: thing.travelled, (0, 0.5, 1, 2, 4)),
}

Curve = list[dict[str, float | int]]


def retention(recall: Mapping[str, Sequence[CaseScore]]) -> dict[str, dict[str, Curve]]:
    """row -> axis -> [{to, mean, lo, hi, n}], from the scores of the recall branch.

    to: the upper end of a bin, in frames or metres; a bin begins where the one before it ends. Bins
    without an object are left out, as is what lies beyond the last.
    """
    curves: dict[str, dict[str, Curve]] = {}
    for row, cases in recall.items():
        for axis, (place, ends) in AXES.items():
            curve, begin = [], -1.0
            for end in ends:
                inside = [
                    [o for o in case.objects if o.group == "later" and begin < place(o) <= end]
                    for case in cases
                ]
                tallies = [Tally(sum(o.identity for o in found), len(found)) for found in inside]
                estimate = bootstrap(tallies, share=True)
                if estimate is not None:
                    curve.append({"to": end, **estimate.to_dict()})
                begin = end
            curves.setdefault(row, {})[axis] = curve
    return curves
