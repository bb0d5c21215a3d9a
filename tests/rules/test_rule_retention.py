"""How long a stream keeps what it wrote: read off the structure, held against asking."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.memory import ROWS, Hybrid, SlidingWindow, Tower
from loci.rules.retention import Retention
from loci.rules.rule import (
    FOREVER,
    Coords,
    Kind,
    Rule,
    first,
    key,
    past,
    recent,
    retrieved,
    same_group,
)
from random_rules import events, every, kept_after, powers, rules

KINDS = (Kind.CLEAN, Kind.GIST)


@settings(max_examples=120, deadline=None)
@given(rules, st.integers(1, 40), st.sampled_from(KINDS))
def test_what_is_kept_is_what_later_queries_see_no_more_and_no_less(rule, frames, kind):
    """Against asking every later query, for as long as any of the random rules remembers."""
    kept = Retention(rule, KINDS)
    expected = kept_after(rule, kind, frames, horizon=160)
    found = [f for f in range(frames) if kept.expiry(kind, f) >= frames]
    assert found == expected, rule
    assert kept.kept(kind, frames) == len(expected)


@settings(max_examples=60, deadline=None)
@given(rules, st.sampled_from(KINDS))
def test_the_growth_is_kept(rule, kind):
    """What is promised to be constant is, and what is to be logarithmic grows by little."""
    kept = Retention(rule, KINDS)
    few, many = kept.kept(kind, 500), kept.kept(kind, 4000)
    if kept.growth(kind) in ("never", "constant"):
        assert many <= few
    if kept.growth(kind) == "never":
        assert few == 0
    if kept.growth(kind) == "logarithmic":
        assert many <= few + 60


def test_the_peak_is_the_most_on_the_way():
    for memory in (ROWS["hybrid"], Tower(branching=3, gists_per_frame=2), SlidingWindow(window=3)):
        kept, sizes = memory.retention(), {Kind.CLEAN: 5, Kind.GIST: memory.gists}
        most = max(
            sum(kept.kept(kind, n) * sizes[kind] for kind in kept.kinds) for n in range(81)
        )
        assert kept.peak(sizes, 80) == most


def test_rules_that_are_no_anchors_and_window_are_kept_exactly():
    """The shipped example with a stride of 107 once lost frame 4280, which it shows for ever."""
    kept = Retention(key(Kind.CLEAN) & (every(107) | recent(1)), [Kind.CLEAN])
    assert [f for f in range(5001) if kept.expiry(Kind.CLEAN, f) >= 5001] == [
        *range(0, 5001, 107), 5000
    ]
    assert kept.growth(Kind.CLEAN) == "linear"
    for stride in range(1, 400):
        kept = Retention(key(Kind.CLEAN) & every(stride), [Kind.CLEAN])
        assert kept.kept(Kind.CLEAN, 10_000) == -(-10_000 // stride)
    kept = Retention(key(Kind.CLEAN) & powers(2), [Kind.CLEAN])
    assert kept.kept(Kind.CLEAN, 4097) == 13
    assert kept.growth(Kind.CLEAN) == "logarithmic"
    kept = Retention(key(Kind.CLEAN) & (events(frozenset({7, 90}), 20) | recent(2)), [Kind.CLEAN])
    assert [kept.kept(Kind.CLEAN, n) for n in (8, 27, 28, 100, 111)] == [2, 3, 2, 3, 2]
    kept = Retention(key(Kind.CLEAN) & retrieved, [Kind.CLEAN])
    assert kept.kept(Kind.CLEAN, 50) == 50


def test_anchors_and_windows_are_read_off_whatever_their_size():
    for anchors, window in ((0, 1), (50, 2), (5000, 3)):
        kept = Hybrid(anchors=anchors, window=window, gists_per_frame=1).retention()
        assert kept.kept(Kind.CLEAN, 20_000) == anchors + window
        assert kept.expiry(Kind.CLEAN, 15_000) == 15_000 + window
        assert kept.growth(Kind.CLEAN) == "constant"
        assert kept.kept(Kind.GIST, 20_000) == 20_000
        if anchors:
            assert kept.expiry(Kind.CLEAN, anchors - 1) > FOREVER - 2


def test_growths_of_the_registry():
    growths = {name: ROWS[name].growth for name in ("none", "window", "context-1", "context-5",
                                                    "full", "hybrid", "tower", "joint-5", "ssm")}
    assert growths == {
        "none": "constant", "window": "constant", "context-1": "constant", "context-5": "linear",
        "full": "linear", "hybrid": "linear", "tower": "logarithmic", "joint-5": "linear",
        "ssm": "constant",
    }
    held = {name: [ROWS[name].tokens_held(n, 16) for n in (1, 3, 40)] for name in
            ("none", "window", "full", "hybrid", "tower", "context-1")}
    assert held == {
        "none": [16, 16, 16], "window": [16, 48, 64], "full": [16, 48, 640],
        "hybrid": [19, 41, 152], "tower": [20, 44, 52], "context-1": [16, 32, 32],
    }
    assert not ROWS["tower"].bounded
    assert ROWS["ssm"].bounded


def test_a_function_declares_how_long_it_shows_a_key_or_is_refused():
    opaque = Rule(lambda q, k, s: k.frame % 3 == 0, "thirds")
    for rule in (opaque, key(Kind.CLEAN) & (recent(2) | opaque)):
        with pytest.raises(LociError, match=r"'thirds' .* declare it, Rule\(") as e:
            Retention(rule, [Kind.CLEAN])
        assert "\n" not in str(e.value)
    # Where the rest of the rule shows nothing, it has nothing to declare.
    Retention(key(Kind.CLEAN) & past | key(Kind.GIST) & opaque, [Kind.CLEAN])
    Retention(key(Kind.CLEAN) & past | same_group & opaque, [Kind.CLEAN])
    # Nor can what decides by data or by a function be turned round.
    for rule in (~retrieved, past & ~every(3), past & ~(first(1) | every(3))):
        with pytest.raises(LociError, match="write a rule of what is to be seen, and declare it"):
            Retention(key(Kind.CLEAN) & rule, [Kind.CLEAN])


def test_nobody_sees_what_comes_after_what_it_knows_of():
    """Whatever a rule says: training would learn from what no stream can have."""
    frames = torch.arange(5)
    clean = Coords.grid(frames, (1, 2), Kind.CLEAN, frames, torch.full_like(frames, -1))
    for rule in (~recent(2), key(Kind.CLEAN), ~first(1)):
        mask = rule.mask(clean, clean)
        assert mask.any()
        assert not mask[clean.now[:, None] < clean.frame[None]].any()
