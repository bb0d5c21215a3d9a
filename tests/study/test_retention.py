"""Retention: every later object that came back is counted once, in the bin it belongs to."""

from __future__ import annotations

from loci.study.rooms.objects import CaseScore, ObjectScore
from loci.study.rooms.retention import retention


def thing(absence: int, travelled: float, right: bool, group: str = "later") -> ObjectScore:
    return ObjectScore(
        0, group, 20, "red cube", "red cube", right, (0, 0), True, absence, travelled,
        (0, 0, 1, 1),
    )


def test_bins_hold_their_upper_end_and_not_their_lower():
    cases = [
        CaseScore({}, (thing(8, 0.0, True), thing(9, 0.5, False))),
        CaseScore({}, (thing(16, 0.6, True), thing(33, 9.0, True))),
    ]
    curves = retention({"row": cases, "silent": [CaseScore({}, ())]})
    assert curves["silent"] == {"absence": [], "travelled": []}
    absence = {p["to"]: (p["mean"], p["n"]) for p in curves["row"]["absence"]}
    assert absence == {8: (1.0, 1), 16: (0.5, 2), 64: (1.0, 1)}
    travelled = {p["to"]: (p["mean"], p["n"]) for p in curves["row"]["travelled"]}
    assert travelled == {0: (1.0, 1), 0.5: (0.0, 1), 1: (1.0, 1)}
    assert all(p["lo"] <= p["mean"] <= p["hi"] for p in curves["row"]["absence"])


def test_objects_of_the_first_frame_do_not_count():
    """One anchor brings them back, and they were gone longest."""
    case = CaseScore({}, (thing(4, 0.0, False), thing(30, 0.0, True, "first")))
    curves = retention({"row": [case]})["row"]
    assert [(p["to"], p["mean"], p["n"]) for p in curves["absence"]] == [(8, 0.0, 1)]
    assert [(p["to"], p["mean"], p["n"]) for p in curves["travelled"]] == [(0, 0.0, 1)]
