"""The streaming cache: where tokens stand, who is evicted, and what a write touches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.memory import ActionHistory, Hybrid
from loci.rules.rule import Coords, Keep, Kind, Plan, compile_plan
from loci.streaming.kv_cache import Cache, Layout

HEADS, WIDTH, LAYERS = 2, 4, 2
WHOLE = slice(None)


def frame_coords(frame: int, tokens: int, gists: int) -> Coords:
    number, nobody = torch.tensor([frame]), torch.tensor([-1])
    parts = [Coords.grid(number, (1, tokens), Kind.CLEAN, number, nobody)]
    if gists:
        parts.append(Coords.grid(number, (1, gists), Kind.GIST, number, nobody))
    return Coords.cat(parts)


def action_coords(frame: int, actions: int) -> Coords:
    number = torch.tensor([frame])
    return Coords.grid(number, (1, actions), Kind.EXECUTED, number, number)


def content(frame: int, count: int) -> torch.Tensor:
    """Keys (1, N, count, d) that say which frame and token they belong to."""
    values = 1000.0 * (frame + 1) + torch.arange(count)
    return values[None, None, :, None].expand(1, HEADS, count, WIDTH)


def make(layout: Layout, slots: int, streams: int = 1) -> Cache:
    return Cache(layout, LAYERS, streams, HEADS, WIDTH, slots)


def write(cache: Cache, frame: int, streams: slice = WHOLE) -> None:
    layout = cache.layout
    passes = [(frame, frame_coords(frame, layout.tokens, layout.gists), 1)]
    cache.reserve(layout.end(frame + 1))
    if layout.actions and frame:
        # What was done before it comes in a pass of its own; its keys are negative.
        passes.insert(0, (frame - 1, action_coords(frame - 1, layout.actions), -1))
    for number, coords, sign in passes:
        for which, start in cache.mark(streams, coords, frame):
            for layer in range(LAYERS):
                new = sign * (content(number, len(coords))[:, :, which] + 0.5 * layer)
                cache.put(layer, streams, start, new, -new)
    for stream in range(len(cache.written))[streams]:
        cache.written[stream] += 1


def held(cache: Cache, stream: int = 0) -> dict[tuple[int, int, int], int]:
    """(kind, frame, column) -> slot, of every token in the cache; each stands once."""
    coords = cache.coords(stream)
    found = {}
    for slot in (coords.kind >= 0).nonzero()[:, 0].tolist():
        name = (int(coords.kind[slot]), int(coords.frame[slot]), int(coords.col[slot]))
        assert name not in found
        found[name] = slot
    return found


keeps = st.builds(Keep, anchors=st.integers(0, 3), recent=st.integers(1, 4))
forever = st.just(Keep(anchors=0, recent=None))


@settings(max_examples=60, deadline=None)
@given(
    keeps | forever, keeps | forever, st.integers(1, 3), st.integers(0, 3), st.integers(0, 2)
)
def test_the_cache_holds_exactly_what_the_plan_keeps(clean, gist, tokens, gists, actions):
    """Against a simulation that knows nothing of slots: a set of tokens, frame after frame."""
    plan = Plan(clean=clean, gist=gist, executed=Keep(anchors=0, recent=None))
    layout = Layout(plan, tokens, gists, actions)
    cache = make(layout, slots=1)

    def stays(keep: Keep, frame: int, last: int) -> bool:
        return keep.recent is None or frame < keep.anchors or frame > last - keep.recent

    for last in range(14):
        write(cache, last)
        expected = {
            (int(kind), frame, col)
            for kind, keep, count in ((Kind.CLEAN, clean, tokens), (Kind.GIST, gist, gists))
            for frame in range(last + 1) if stays(keep, frame, last)
            for col in range(count)
        } | {(int(Kind.EXECUTED), chunk, col) for chunk in range(last) for col in range(actions)}
        found = held(cache)
        assert found.keys() == expected
        for (kind, frame, col), slot in found.items():
            offset = col + (tokens if kind == Kind.GIST else 0)
            for layer in range(LAYERS):
                here = cache.keys[layer][0, :, slot]
                sign = -1 if kind == Kind.EXECUTED else 1
                assert (here == sign * (1000 * (frame + 1) + offset + 0.5 * layer)).all()
                assert (cache.values[layer][0, :, slot] == -here).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3), st.integers(1, 4), st.integers(0, 3), st.integers(1, 5), st.integers(0, 3)
)
def test_once_the_window_is_full_what_is_alive_is_one_slice(
    anchors, window, gists, tokens, actions
):
    """A L + R L + M N tokens, side by side, as the paper counts them, and n (N - 1) actions."""
    memory = ActionHistory(memory=Hybrid(anchors=anchors, window=window, gists_per_frame=gists))
    layout = Layout(compile_plan(memory.rule(), reach=64), tokens, gists, actions)
    cache = make(layout, slots=1)
    for frame in range(12):
        write(cache, frame)
        written = frame + 1
        slots = sorted(held(cache).values())
        # Before that it is one slice too, but for the part of the ring that is still empty.
        assert slots == list(range(slots[0], layout.end(written)))
        whole = min(written, anchors + window)
        count = whole * tokens + gists * written + actions * frame
        assert cache.tokens(0) == len(slots) == count
        assert cache.bytes(0) == len(slots) * 2 * LAYERS * HEADS * WIDTH * 4
        if written >= anchors + window:
            assert slots[0] == 0


def test_the_ring_fills_from_the_right_and_starts_over():
    layout = Layout(Plan(clean=Keep(1, 3), gist=Keep(0, None)), tokens=2, gists=1)
    assert layout.rings == 6
    starts = [layout.place(frame)[0][1] for frame in range(8)]
    assert starts[0] == 6  # the anchor, right behind the ring
    assert starts[1:] == [4, 2, 0, 4, 2, 0, 4]
    gists = [layout.place(frame)[1][1] for frame in range(4)]
    assert gists == [8, 9, 10, 11]


def test_growth_keeps_what_is_held():
    layout = Layout(Plan(clean=Keep(0, None), gist=Keep(0, None)), tokens=3, gists=0)
    cache = make(layout, slots=4)
    sizes = []
    for frame in range(20):
        write(cache, frame)
        sizes.append(cache.keys[0].shape[2])
    assert sizes == sorted(sizes)
    assert len(set(sizes)) <= 5  # doubling
    assert cache.keys[0].shape[2] == cache.values[1].shape[2] == cache.slots.shape[1]
    for (_, frame, col), slot in held(cache).items():
        assert (cache.keys[1][0, :, slot] == 1000 * (frame + 1) + col + 0.5).all()


def test_streams_are_apart():
    layout = Layout(Plan(clean=Keep(1, 2), gist=Keep(0, None)), tokens=2, gists=1)
    cache = make(layout, slots=40, streams=2)
    for frame in range(3):
        write(cache, frame)
    for frame in range(3, 6):
        write(cache, frame, slice(1, 2))
    assert cache.written == [3, 6]
    assert {f for k, f, _ in held(cache, 0) if k == Kind.CLEAN} == {0, 1, 2}
    assert {f for k, f, _ in held(cache, 1) if k == Kind.CLEAN} == {0, 4, 5}
    cache.forget(1)
    assert cache.tokens(1) == 0
    assert cache.tokens(0) == 3 * 3


def test_what_counts_is_independent_of_what_was_there_before():
    layout = Layout(Plan(clean=Keep(1, 2), gist=Keep(0, None)), tokens=2, gists=1)
    fresh, used = make(layout, slots=20), make(layout, slots=50)
    for frame in range(7):
        write(used, frame)
    used.forget(0)
    used.keys[0][..., 12:, :] = 7.0  # somebody's scratch
    for frame in range(2):
        write(fresh, frame)
        write(used, frame)
    ours, theirs = fresh.committed(), used.committed()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_restore_takes_over_or_refuses_untouched():
    layout = Layout(Plan(clean=Keep(1, 2), gist=Keep(0, None)), tokens=2, gists=1)
    cache, other = make(layout, slots=20, streams=2), make(layout, slots=1, streams=2)
    for frame in range(5):
        write(cache, frame)
    tree = cache.committed()
    other.restore(tree)
    assert held(other, 1) == held(cache, 1)
    tree["keys.0"].zero_()  # copied: what was restored stays
    assert all(torch.equal(a, b) for a, b in zip(cache.committed().values(),
                                                 other.committed().values(), strict=True))
    tree = cache.committed()
    wide = Cache(layout, LAYERS, 2, HEADS, WIDTH + 2, 40)
    deep = Cache(layout, LAYERS + 1, 2, HEADS, WIDTH, 40)
    flat = Cache(layout, LAYERS - 1, 2, HEADS, WIDTH, 40)
    longer = Cache(Layout(layout.plan, 3, 1), LAYERS, 2, HEADS, WIDTH, 40)
    for stranger, words in (
        (make(layout, slots=40, streams=1), "a memory of 2 streams does not fit a session of 1"),
        (make(layout, slots=40, streams=3), "a memory of 2 streams does not fit a session of 3"),
        (wide, "another model or row"), (deep, "no memory of this model"),
        (flat, "no memory of this model"), (longer, "another model or row"),
    ):
        with pytest.raises(LociError, match=words) as error:
            stranger.restore(tree)
        assert "\n" not in str(error.value)
        assert not any(stranger.written)
        assert (stranger.slots == int(Kind.EMPTY)).all()


def test_gradients_flow_to_what_is_kept_and_not_to_what_was_evicted():
    layout = Layout(Plan(clean=Keep(1, 1), gist=Keep(0, None)), tokens=1, gists=0)
    cache = make(layout, slots=2)
    source = torch.ones(5, requires_grad=True)
    for frame in range(5):
        ((_, start),) = cache.mark(WHOLE, frame_coords(frame, 1, 0), frame)
        key = (frame + 1) * source[frame].expand(1, HEADS, 1, WIDTH)
        if frame == 3:
            with torch.no_grad():  # a write without gradients keeps those of the others
                cache.put(0, WHOLE, start, 1.0 * key, 1.0 * key)
        else:
            cache.put(0, WHOLE, start, key, key)
        cache.written[0] += 1
    cache.reserve(10)
    cache.keys[0].sum().backward()
    size = float(HEADS * WIDTH)
    assert source.grad is not None
    assert source.grad.tolist() == [size, 0, 0, 0, 5 * size]
    cache.forget(0)
    assert not cache.keys[0].requires_grad


def test_a_write_without_gradients_evicts_those_of_the_slot():
    layout = Layout(Plan(clean=Keep(0, 1), gist=Keep(0, None)), tokens=1, gists=0)
    cache = make(layout, slots=1)
    source = torch.ones(1, HEADS, 1, WIDTH, requires_grad=True)
    cache.put(0, WHOLE, 0, source, source)
    loss = cache.keys[0].square().sum()
    with torch.no_grad():
        cache.put(0, WHOLE, 0, 3 * source, 3 * source)
    loss.backward()  # what was saved for it is untouched
    assert source.grad is not None
    assert (source.grad == 2).all()
    source.grad = None
    assert (cache.keys[0] == 3).all()
    cache.keys[0].sum().backward()
    assert (source.grad == 0).all()


def test_a_stream_begun_in_inference_mode_goes_on_outside():
    layout = Layout(Plan(clean=Keep(1, 1), gist=Keep(0, None)), tokens=2, gists=1)
    with torch.inference_mode():
        cache = make(layout, slots=1)
        write(cache, 0)
    write(cache, 1)
    assert cache.tokens(0) == 6
