"""Joint context, compression and the mixture, against loops over their equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from loci.errors import LociError
from loci.geometry import Camera
from loci.memory import ROWS, BlockSSM, Compose, Compressed, Context, Joint, Memory, Mixture
from loci.memory.compression import multiscale
from loci.memory.frames import Frames
from loci.models.trunk import TokenStream
from loci.models.world import WorldConfig
from oracles import store
from tiny_world import data, tiny_world, walk

JOINT = [name for name, memory in ROWS.items() if memory.joint and not memory.wants]


def frames(count: int, rows: int = 2, channels: int = 3, seed: int = 0) -> Frames:
    draw = torch.Generator().manual_seed(seed)
    return Frames(
        torch.randn(rows, count, channels, 8, 8, generator=draw),
        walk(rows, count, seed), torch.rand(rows, count, generator=draw),
    )


def chunk(rows: int = 2, channels: int = 3) -> Frames:
    return frames(4, rows, channels, seed=9)


@pytest.mark.parametrize("past", [1, 2, 3, 7, 30])
def test_picked_frames_are_the_first_the_retrieved_in_order_and_the_last(past: int) -> None:
    memory = Joint(frames=5)
    poses, targets = walk(3, past), walk(3, 4, seed=5)
    found = memory.select(poses, targets, Camera())
    assert found is not None
    picks = memory.arrange(found, past)
    assert picks.shape == (3, 6)
    assert (picks[:, 0] == 0).all()
    assert (picks[:, -1] == past - 1).all()
    assert (picks.diff(dim=1) >= 0).all()
    missing = max(0, 4 - max(past - 2, 0))
    assert (picks[:, : 1 + missing] == 0).all()
    assert torch.equal(picks[:, 1 + missing : -1], found.sort(dim=1).values)


@pytest.mark.parametrize(("order", "past", "picks"), [
    ("anchor", 1, [0]), ("anchor", 3, [2, 1, 0]), ("anchor", 7, [6, 5, 4, 3, 2]),
    ("newest", 1, [0]), ("newest", 7, [6, 5, 4, 3, 2]),
    ("before", 1, [0]), ("before", 2, [0]), ("before", 3, [0, 1]), ("before", 7, [1, 2, 3, 4, 5]),
])
def test_orders_of_the_release(order: str, past: int, picks: list[int]) -> None:
    """K counts all that stand beside a chunk, and where there are fewer frames fewer do."""
    memory = Joint(frames=5, order=order, retrieval="recent")
    found = memory.select(walk(2, past), walk(2, 4, seed=5), Camera())
    found = torch.zeros(2, 0, dtype=torch.long) if found is None else found
    assert memory.arrange(found, past).tolist() == [picks] * 2
    assert memory.mixed_after(past) == len(picks) <= memory.mixed == 5


def test_an_episode_that_retrieves_nothing_has_its_anchor_alone() -> None:
    memory = Joint(frames=3, order="anchor", drop=0.5)
    assert memory.unpicked(torch.tensor([[[7, 3, 5]]])).tolist() == [[[7, 7, 7]]]
    assert Joint(frames=3).unpicked(torch.tensor([0, 3, 5, 7])).tolist() == [0, 0, 0, 7]


def test_settings_of_the_release_are_left_out_of_json_at_their_defaults() -> None:
    model = tiny_world(Joint(frames=5)).config
    added = {"order", "timestep", "posed", "carried", "rounded", "motion", "guidance", "negative",
             "restart"}
    for config in (model, model.memory, model.flow, BlockSSM()):
        assert not added & config.to_dict().keys()
    told = Joint(frames=5, order="anchor", timestep="chunk")
    assert {"order", "timestep"} <= told.to_dict().keys()
    assert Memory.from_dict(told.to_dict()) == told


@pytest.mark.parametrize("ratio", [1, 2, 5])
@pytest.mark.parametrize("scheme", ["average", "multiscale"])
def test_averages_are_those_of_a_loop(ratio: int, scheme: str) -> None:
    memory = Compressed(frames=10, ratio=ratio, scheme=scheme, gain=1.1, decay=0.9)
    picked = frames(11)
    mixer = memory.mixer(3)
    out = mixer(picked, chunk())
    groups = 10 // ratio
    assert out.latents.shape[1] == groups + 1 == memory.mixed
    for group in range(groups):
        members = range(group * ratio, (group + 1) * ratio)
        mean = sum(picked.latents[:, i] for i in members) / ratio
        if scheme == "multiscale":
            coarse = torch.zeros_like(mean)
            for share, side in ((0.60, 1), (0.25, 2), (0.15, 4)):
                for row in range(8):
                    for col in range(8):
                        top, left = row // side * side, col // side * side
                        cell = mean[:, :, top : top + side, left : left + side]
                        coarse[:, :, row, col] += share * cell.mean((2, 3))
            mean = coarse
        weight = 1.1 * 0.9 ** (groups - 1 - group)
        torch.testing.assert_close(out.latents[:, group], weight * mean, atol=1e-5, rtol=1e-5)
        middle = group * ratio + ratio // 2
        assert torch.equal(out.poses[:, group], picked.poses[:, middle])
        level = sum(picked.time[:, i] for i in members) / ratio
        torch.testing.assert_close(out.time[:, group], level)
    assert torch.equal(out.latents[:, -1], picked.latents[:, -1])
    assert torch.equal(out.poses[:, -1], picked.poses[:, -1])


def test_the_learned_compressor_begins_as_the_average_in_space() -> None:
    memory = Compressed(frames=10, ratio=4, scheme="learned")
    picked = frames(11)
    out = memory.mixer(3)(picked, chunk())
    assert out.latents.shape == (2, 11, 3, 4, 4)
    for row in range(4):
        for col in range(4):
            cell = picked.latents[..., 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].mean((-2, -1))
            torch.testing.assert_close(out.latents[..., row, col], cell, atol=1e-6, rtol=1e-5)
    assert out.poses is picked.poses


def test_the_mixture_takes_the_most_similar_frames() -> None:
    memory = Mixture(frames=10, top=3, temperature=0.2)
    picked, target = frames(11), chunk()
    out = memory.mixer(3)(picked, target)
    for row in range(2):
        mean = [float(target.latents[row, :, c].mean()) for c in range(3)]
        scores = []
        for k in range(10):
            other = [float(picked.latents[row, k, c].mean()) for c in range(3)]
            dot = sum(a * b for a, b in zip(mean, other, strict=True))
            scores.append(dot / math.hypot(*mean) / math.hypot(*other))
        best = sorted(sorted(range(10), key=lambda k: -scores[k])[:3])
        total = sum(math.exp(scores[k] / 0.2) for k in best)
        for place, k in enumerate(best):
            weight = 3 * math.exp(scores[k] / 0.2) / total
            torch.testing.assert_close(
                out.latents[row, place], weight * picked.latents[row, k], atol=1e-5, rtol=1e-4
            )
            assert torch.equal(out.poses[row, place], picked.poses[row, k])
    assert torch.equal(out.latents[:, -1], picked.latents[:, -1])


@pytest.mark.parametrize("name", JOINT)
def test_context_and_chunk_see_each_other(name: str) -> None:
    """A context frame changes with the noise of its chunk, and is computed again at each step:
    the past enters the output at every noise level, and no key or value is kept."""
    model = tiny_world(ROWS[name])
    latents, poses = data(model)
    session = model.session(2)
    session.write(latents[:, :8], poses[:, :8])
    reading = session.read(poses[:, 8:10])
    before = session.denoise(reading, latents[:, 8:10], 0.7)
    session.reset()
    session.write(1.5 * latents[:, :8], poses[:, :8])
    after = session.denoise(session.read(poses[:, 8:10]), latents[:, 8:10], 0.7)
    assert not torch.allclose(before, after)
    assert session.bytes() >= store(session, "frames").bytes(0) == 8 * latents[0, 0].numel() * 4


def test_joint_and_cached_forms_differ_although_they_pick_the_same() -> None:
    joint, cached = tiny_world(ROWS["joint-5"]), tiny_world(ROWS["context-5"])
    cached.load_state_dict(joint.state_dict())
    latents, poses = data(joint)
    out = []
    for model in (joint, cached):
        session = model.session(2)
        session.write(latents[:, :8], poses[:, :8])
        out.append(session.denoise(session.read(poses[:, 8:10]), latents[:, 8:10], 0.5))
    assert not torch.allclose(out[0], out[1], atol=1e-3)


def test_placement_moves_wans_own_positions_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def out(placement: str, camera: str) -> torch.Tensor:
        model = tiny_world(Joint(frames=20, placement=placement), camera)
        latents, poses = data(model)
        session = model.session(2)
        session.write(latents[:, :8], poses[:, :8])
        return session.denoise(session.read(poses[:, 8:10]), latents[:, 8:10], 0.5)

    for camera in ("inject", "none"):
        assert not torch.allclose(out("suffix", camera), out("prefix", camera), atol=1e-4)
    # Rays know no time: such a row is no other row, so that nobody can study it as one.
    with pytest.raises(LociError, match=r"placement 'prefix' would change nothing.*'inject'"):
        out("prefix", "rotary")
    monkeypatch.setattr(WorldConfig, "__post_init__", lambda self: None)
    assert torch.equal(out("suffix", "rotary"), out("prefix", "rotary"))


def test_placement_counts_where_a_state_runs_over_the_frames() -> None:
    def out(placement: str) -> torch.Tensor:
        model = tiny_world(Compose(members=(
            Joint(frames=3, placement=placement),
            BlockSSM(every=2, context=0, hint=0, carried=False),
        )))
        latents, poses = data(model)
        session = model.session(2)
        session.write(latents[:, :8], poses[:, :8])
        return session.denoise(session.read(poses[:, 8:10]), latents[:, 8:10], 0.5)

    assert not torch.allclose(out("suffix"), out("prefix"), atol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (6, 6), (5, 9)])
def test_coarse_versions_fit_any_size(size: tuple[int, int]) -> None:
    flat = torch.full((2, 3, 4, *size), 0.7)
    torch.testing.assert_close(multiscale(flat), flat)
    sharp = torch.randn(2, 3, 4, *size)
    assert multiscale(sharp).shape == sharp.shape
    assert multiscale(sharp).var() < sharp.var()


@pytest.mark.parametrize("camera", ["rotary", "inject"])
@pytest.mark.parametrize("name", ["joint-5", "learned-4"])
def test_frames_beside_a_chunk_go_no_further_than_somebody_reads(
    name: str, camera: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last attention only the chunk goes on: less work, the same output."""
    model = tiny_world(ROWS[name], camera, text_dim=6)
    latents, poses = data(model)
    words = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    text, time = model.dit.encode_text(words, [3, 1]), torch.tensor([[0.5, 0.2]] * 2)
    noisy = torch.stack([latents[:, 6:8], latents[:, 8:10]], dim=1)

    def run() -> tuple[torch.Tensor, int]:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            out = model(latents, noisy, time, poses, [6, 8], text=text)
        return out, counter.get_total_flops()

    heard, less = run()
    monkeypatch.setattr(TokenStream, "narrow", lambda self, x, dim=1: x)
    whole, more = run()
    torch.testing.assert_close(heard, whole, atol=1e-6, rtol=1e-6)
    dit, memory = model.config.dit, ROWS[name]
    beside = 2 * 2 * memory.mixed * model.tokens // memory.shrink**2
    # Output of the attention, queries and output for the text (attention itself is not counted on
    # a CPU), feed-forward.
    each = 3 * dit.dim**2 + 2 * dit.dim * dit.ffn_dim
    assert more - less == 2 * beside * each


@pytest.mark.parametrize("memory", [Context(frames=5, drop=0.1), Joint(frames=5, drop=0.1)])
def test_dropped_episodes_retrieve_nothing(memory: Context) -> None:
    model = tiny_world(memory)
    latents, poses = data(model)
    noisy, time = latents[:, None, 8:10], torch.full((2, 1), 0.5)

    def out(z, dropped):
        return model(z, noisy, time, poses, [8], dropped=dropped)

    other = latents.clone()
    other[:, 2:6] += 1.0
    kept = torch.zeros(2, dtype=torch.bool)
    mixed = torch.tensor([True, False])
    changed = (out(latents, kept) - out(other, kept)).abs().amax((1, 2, 3, 4, 5))
    assert (changed > 1e-4).all()
    changed = (out(latents, mixed) - out(other, mixed)).abs().amax((1, 2, 3, 4, 5))
    assert changed[0] == 0
    assert changed[1] > 1e-4
    torch.testing.assert_close(out(latents, mixed)[1], out(latents, kept)[1])


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Joint(frames=0), "K counts the first frame"),
    (lambda: Joint(placement="sufix"), "did you mean 'suffix'"),
    (lambda: Joint(order="ancor"), "did you mean 'anchor'"),
    (lambda: Joint(timestep="chunck"), "did you mean 'chunk'"),
    (lambda: Joint(order="anchor", retrieval="cascade"), "fills none up; use overlap"),
    (lambda: Joint(order="newest", drop=0.1), "retrieves nothing that could be dropped"),
    (lambda: Compressed(order="newest"), "keeps the order of time, not 'newest'"),
    (lambda: Mixture(order="anchor"), "keeps the order of time, not 'anchor'"),
    (lambda: Compressed(frames=20, ratio=3), "does not divide 20"),
    (lambda: Compressed(frames=20, ratio=0), "does not divide"),
    (lambda: Compressed(scheme="lerned"), "did you mean 'learned'"),
    (lambda: Compressed(scheme="learned", ratio=2), "no square"),
    (lambda: Compressed(scheme="learned", decay=0.9), "gain and decay would change nothing"),
    (lambda: Compressed(gain=0.0), "use a gain above 0"),
    (lambda: Compressed(gain=math.nan), "use a gain above 0"),
    (lambda: Compressed(decay=1.5), "use a gain above 0"),
    (lambda: Mixture(frames=4, top=5), "use 1 to 4"),
    (lambda: Mixture(top=0), "use 1 to 20"),
    (lambda: Mixture(temperature=0.0), "above 0"),
])
def test_bad_settings_are_refused(make, words: str) -> None:
    with pytest.raises(LociError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_frame_that_does_not_shrink_is_refused() -> None:
    memory = Compressed(frames=20, scheme="learned", ratio=9)
    with pytest.raises(LociError, match="do not shrink by 3"):
        tiny_world(memory)
