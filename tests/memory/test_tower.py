"""The tower: gists of gists, against a stack of Python lists that knows nothing of digits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.attention.dense import Dense
from loci.attention.flex import Flex
from loci.errors import LociError
from loci.memory import ROWS, Tower
from loci.rules import drawing
from loci.rules.rule import Coords, Kind
from tiny_world import same, tiny_world, walk


def simulate(branching: int, frames: int) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """What each frame's pass sees of the gists, and what is left after it.

    The first: for each frame, those whose gists it sees, itself included. The second: (frame,
    frames that its gists stand for), the oldest first. Each frame pushes its gists; whenever the
    topmost `branching` sets stand for equally many frames, the newest takes the place of them all.
    """
    stack: list[tuple[int, int]] = []
    seen, left = [], []
    for frame in range(frames):
        stack.append((frame, 1))
        seen.append([f for f, _ in stack])
        while len({width for _, width in stack[-branching:]}) == 1 and len(stack) >= branching:
            stack[-branching:] = [(frame, branching * stack[-1][1])]
        left.append(list(stack))
    return seen, left


def digits(number: int, base: int) -> int:
    return number if number < base else number % base + digits(number // base, base)


def tokens(frames: list[int], kind: Kind, now: list[int], group: int = -1) -> Coords:
    """One token a frame."""
    columns = torch.tensor(frames), torch.tensor(now), torch.full((len(frames),), group)
    return Coords.grid(columns[0], (1, 1), kind, *columns[1:])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(1, 220))
def test_visibility_is_that_of_the_oracle(branching, frames):
    rule = Tower(branching=branching).rule()
    seen, left = simulate(branching, frames)
    number = list(range(frames))
    gists = tokens(number, Kind.GIST, number)
    expected = torch.zeros(2, frames, frames, dtype=torch.bool)
    for frame in number:
        expected[0, frame, seen[frame]] = True
        expected[1, frame, [f for f, _ in left[frame]]] = True
    for kind in (Kind.CLEAN, Kind.GIST):
        assert torch.equal(rule.mask(tokens(number, kind, number), gists), expected[0])
    for kind in (Kind.NOISY, Kind.ACTION):
        asking = tokens([n + 1 for n in number], kind, number, group=0)
        assert torch.equal(rule.mask(asking, gists), expected[1])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(1, 900), st.lists(st.integers(0, 899), max_size=12))
def test_as_many_sets_as_the_digits_add_up_to(branching, frames, moments):
    memory = Tower(anchors=0, gists_per_frame=1, branching=branching)
    kept = memory.retention()
    _, left = simulate(branching, frames)
    sizes = [len(sets) for sets in left]
    assert sizes == [digits(n + 1, branching) for n in range(frames)]
    for n in (m for m in moments if m < frames):
        assert sizes[n] == kept.kept(Kind.GIST, n + 1)
    assert kept.peak({Kind.GIST: 1}, frames) == max(sizes)
    assert kept.kept(Kind.GIST, 0) == kept.peak({Kind.GIST: 1}, 0) == 0
    for n, sets in enumerate(left):
        # Every frame is stood for exactly once, and the sets come in order.
        assert sum(width for _, width in sets) == n + 1
        assert [f + 1 for f, _ in sets] == [
            sum(width for _, width in sets[: i + 1]) for i in range(len(sets))
        ]


def test_flex_sees_what_the_dense_mask_shows():
    rule = Tower(anchors=1, window=2, gists_per_frame=1, branching=2).rule()
    coords = drawing.episode_coords(9, tokens=2, gists=1, chunk=2)
    q, k, v = torch.randn(3, 1, 2, len(coords), 8)
    dense = Dense(rule, [coords])(0, [(q, k, v)])[0]
    flex = Flex(rule, [coords], torch.device("cpu"))(0, [(q, k, v)])[0]
    torch.testing.assert_close(dense, flex, atol=1e-5, rtol=1e-5)


def episode(model, frames: int, starts: list[int], batch: int = 2):
    torch.manual_seed(3)
    latents = torch.randn(batch, frames, *model.latent_shape)
    noisy = torch.randn(batch, len(starts), 2, *model.latent_shape)
    return latents, noisy, torch.rand(batch, len(starts)), walk(batch, frames)


@pytest.mark.parametrize(("branching", "anchors", "window"), [(2, 2, 1), (3, 0, 2)])
def test_packed_equals_stream_over_many_sums(branching, anchors, window):
    """Values and gradients, whatever frames are written together."""
    memory = Tower(anchors=anchors, window=window, gists_per_frame=2, branching=branching)
    model = tiny_world(memory, layers=3)
    frames = branching**3 + 4
    starts = list(range(1, frames - 1, 3))
    latents, noisy, time, poses = episode(model, frames, starts)

    def streamed(pieces: list[int]):
        def run(z):
            session, outputs, at = model.session(2, gradients=True), [], 0
            for group, start in enumerate(starts):
                while at < start:
                    count = min(pieces[at % len(pieces)], start - at)
                    session.write(z[:, at : at + count], poses[:, at : at + count])
                    at += count
                reading = session.read(poses[:, start : start + 2])
                outputs.append(session.denoise(reading, noisy[:, group], time[:, group]))
            return torch.stack(outputs, dim=1)
        return run

    def packed(form: str):
        return lambda z: model(z, noisy, time, poses, starts, attention=form)

    results = []
    for run in (packed("dense"), packed("windowed"), streamed([1]), streamed([3, 1, 2])):
        z = latents.clone().requires_grad_()
        model.zero_grad()
        output = run(z)
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        bank = model.gist_bank.grad
        assert z.grad is not None
        assert bank is not None
        results.append((output.detach(), z.grad, bank.clone()))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            scale = max(1.0, float(ours.abs().max()))
            assert float((ours - theirs).abs().max()) < 1e-5 * scale


def test_any_cut_any_fork_any_company():
    """One frame after the other or many at once, from a snapshot at any frame, beside a stream of
    another length: one memory."""
    model = tiny_world(Tower(anchors=1, window=1, gists_per_frame=2, branching=2))
    latents, _, _, poses = episode(model, 18, [1])
    one, snapshots = model.session(2), []
    for frame in range(16):
        snapshots.append(one.snapshot())
        one.write(latents[:, frame : frame + 1], poses[:, frame : frame + 1])
    expected = one.generate(poses[:, 16:], latents[:, 16:])
    for frame, tree in enumerate(snapshots):
        session = model.session(2).restore(tree)
        assert same(session.snapshot(), tree)
        session.write(latents[:, frame:16], poses[:, frame:16])
        out = session.generate(poses[:, 16:], latents[:, 16:])
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
        for name, value in one.snapshot().items():
            torch.testing.assert_close(session.snapshot()[name], value, atol=1e-5, rtol=1e-5)
        # The second stream is `frame` frames behind: 15 frames stack far higher than 16.
        ragged = model.session(2)
        ragged.write(latents[1:, :frame], poses[1:, :frame], [1]) if frame else None
        ragged.write(latents[:1, :16], poses[:1, :16], [0])
        for at in range(frame, 15):
            ragged.write(latents[1:, at : at + 1], poses[1:, at : at + 1], [1])
        assert ragged.tokens(0) == 2 * 4 + 2
        assert ragged.tokens(1) == 2 * 4 + 4 * 2
        ragged.write(latents[1:, 15:16], poses[1:, 15:16], [1])
        out = ragged.generate(poses[:, 16:], latents[:, 16:])
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("layers", "reached"), [(4, False), (5, True)])
def test_a_sum_of_sums_passes_on_what_it_saw_a_layer_later(layers, reached):
    """After 8 frames there is one set of gists in base 2, a sum of sums of sums. Frame 0 is five
    steps away from a chunk: through the gists of frames 7, 3, 1 and its own."""
    memory = Tower(anchors=0, window=1, gists_per_frame=1, branching=2)
    model = tiny_world(memory, layers=layers)
    latents, noisy, time, poses = episode(model, 10, [8])
    z = latents.clone().requires_grad_()
    model(z, noisy, time, poses, [8]).square().sum().backward()
    assert z.grad is not None
    reach = z.grad.abs().amax(dim=(0, 2, 3, 4)) > 0
    assert bool(reach[0]) == reached
    assert reach[7]
    assert bool(reach[:8].all()) == reached
    assert not reach[8:].any()


def test_the_state_grows_with_the_logarithm():
    """By arithmetic: 400 is 620 in base 8 and 6400 is 14400, 8 and 9 sets of 4 gists."""
    memory = ROWS["tower"]
    assert memory.growth == "logarithmic"
    assert not memory.bounded
    assert memory.tokens_held(400, 16) == 2 * 16 + 8 * 4
    assert memory.tokens_held(6400, 16) == 2 * 16 + 9 * 4
    kept, sizes = memory.retention(), {Kind.CLEAN: 16, Kind.GIST: 4}
    assert kept.peak(sizes, 400) == 2 * 16 + 19 * 4  # 383 is 577: five and two sevens


def test_seven_hundred_frames_in_the_buffer_of_the_arithmetic():
    memory = Tower(anchors=2, window=2, gists_per_frame=2, branching=4)
    model = tiny_world(memory, layers=1)
    latents, _, _, poses = episode(model, 702, [1], batch=1)
    session = model.session(1, capacity=700)
    size, most = session.stream.kv.keys[0].shape[2], 0
    for frame in range(700):
        session.write(latents[:, frame : frame + 1], poses[:, frame : frame + 1])
        assert session.tokens() == memory.tokens_held(frame + 1, model.tokens)
        most = max(most, session.tokens())
        if frame % 50 == 0:
            session.generate(poses[:, -2:], latents[:, -2:], steps=1)
    assert session.stream.kv.keys[0].shape[2] == size
    sizes = {Kind.CLEAN: model.tokens, Kind.GIST: 2}
    assert most == memory.retention().peak(sizes, 700)
    assert size == most + 2 * model.tokens


def test_mistakes_are_refused_in_one_line():
    for wrong, words in (
        ({"branching": 1}, "branch by 2 or more"), ({"branching": 0}, "branch by 2 or more"),
        ({"anchors": -1}, "cannot be negative"), ({"window": 0}, "present frame"),
        ({"gists_per_frame": 0}, "made of gists"),
    ):
        with pytest.raises(LociError, match=words) as error:
            Tower(**wrong)
        assert "\n" not in str(error.value)
