"""Sessions: what they accept, what they refuse untouched, and what they leave as it was."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from kinds import choices, one_of_each_kind
from loci.errors import LociError
from loci.memory import Memory
from loci.memory.base import together
from loci.models.trunk import Block
from loci.rules.rule import FOREVER, Kind, Rule, key, query, recent, same_frame
from loci.streaming import kv_view
from loci.streaming.session import Session
from oracles import state_bytes
from tiny_world import MEMORIES, data, same, started, tiny_world, walk


@dataclass(frozen=True, kw_only=True)
class Blind(Memory, name="test-blind"):
    """A chunk sees nothing of the past."""

    def rule(self) -> Rule:
        return ~query(Kind.NOISY) & key(Kind.CLEAN) & same_frame | together


@dataclass(frozen=True, kw_only=True)
class Dilated(Memory, name="test-dilated"):
    """Every other frame of the last five: what is seen is no single slice."""

    def rule(self) -> Rule:
        even = Rule(lambda q, k, s: (q.now - k.frame) % 2 == 0, "even",
                    lambda frame: torch.full_like(frame, FOREVER))
        return key(Kind.CLEAN) & recent(5) & even | together


@dataclass(frozen=True, kw_only=True)
class Rings(Memory, name="test-rings"):
    """Gists that are forgotten too, after longer than the frames."""

    @property
    def gists(self) -> int:
        return 2

    def rule(self) -> Rule:
        return key(Kind.CLEAN) & recent(2) | key(Kind.GIST) & recent(4) | together


@pytest.mark.parametrize("memory", [Blind(), Dilated(), Rings()], ids=lambda m: m.type_name)
@pytest.mark.parametrize("pieces", [1, 3])
def test_rules_of_any_shape_stream_as_they_train(memory, pieces):
    model = tiny_world(memory)
    latents, poses = data(model)
    noise, time = torch.randn(2, 1, 2, *model.latent_shape), torch.tensor([[0.3], [0.8]])
    with torch.no_grad():
        for start in (1, 3, 7, 10):
            session = model.session(2)
            for at in range(0, start, pieces):
                stop = min(at + pieces, start)
                session.write(latents[:, at:stop], poses[:, at:stop])
            ahead = poses[:, start : start + 2]
            got = session.denoise(session.read(ahead), noise[:, 0], time[:, 0])
            wanted = model(latents, noise, time, poses, [start], attention="dense"
            )[:, 0]
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", one_of_each_kind(MEMORIES, choices))
def test_it_does_not_matter_where_the_world_begins(name):
    """Poses count relative to the first frame, in retrieval too."""
    model = tiny_world(MEMORIES[name])
    latents, poses = data(model)
    frame = walk(1, 1, seed=5)[0, 0]
    frame[:3, 3] = torch.tensor([30.0, -2.0, 9.0], dtype=torch.float64)
    outs = []
    for world in (poses, frame @ poses):
        session = model.session(2)
        session.write(latents[:, :10], world[:, :10])
        outs.append(session.denoise(session.read(world[:, 10:]), latents[:, :2], 0.5))
    torch.testing.assert_close(outs[0], outs[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["hybrid", "context-5"])
def test_a_refused_write_changes_nothing(name):
    session, latents, poses = started(name)
    before = session.snapshot()
    frame, pose = latents[:, 5:6], poses[:, 5:6]
    sheared = pose.clone()
    sheared[1, 0, 0, 1] += 0.3
    hole = frame.clone()
    hole[1, 0, 0, 0, 0] = torch.nan
    for words, arguments in (
        ("from its own codec", (frame[:, :, :-1], pose)),
        ("from its own codec", (frame[0], pose)),
        ("one 4x4 camera-to-world matrix a frame", (latents[:, 5:7], pose)),
        (r"shape \(2, 0, 8, 4, 4\); give \(B, T, 8", (latents[:, :0], poses[:, :0])),
        ("1 rows for 2 streams", (frame[:1], pose[:1])),
        ("2 rows for 1 streams", (frame, pose, [1])),
        ("exactly one row", (frame, pose, [1, 1])),
        (r"shape \(0, 1, 8, 4, 4\); give \(B, T, 8", (frame[:0], pose[:0], [])),
        ("has 0 to 1", (frame, pose, [1, 2])),
        ("has 0 to 1", (frame, pose, [-1, 0])),
        ("NaN or infinity in poses", (frame, pose * torch.nan)),
        ("frame 0 in row 1 is no rigid motion", (frame, sheared)),
        ("NaN or infinity in latents", (hole, pose)),
    ):
        with pytest.raises(LociError, match=words) as error:
            session.write(*arguments)
        assert "\n" not in str(error.value)
        assert session.lengths == [5, 5]
        assert same(session.snapshot(), before), words


def test_readings_are_checked_and_go_out_of_date():
    session, latents, poses = started()
    ahead, noise = poses[:, 5:7], latents[:, 5:7]
    with pytest.raises(LociError, match="write a first frame"):
        session.model.session(2).read(ahead)
    with pytest.raises(LociError, match="NaN"):
        session.read(ahead * torch.nan)
    with pytest.raises(LociError, match="read the poses of this chunk"):
        session.denoise(session.read(ahead), noise[:, :1], 0.5)
    with pytest.raises(LociError, match="from its own codec"):
        session.denoise(session.read(ahead), noise[:, :, :1], 0.5)
    saved = session.snapshot()
    for change in (
        lambda: session.write(latents[:, 5:6], poses[:, 5:6]),
        lambda: session.restore(saved),
        lambda: session.reset([1]),
    ):
        session.restore(saved)
        reading = session.read(ahead)
        session.denoise(reading, noise, 0.5)
        change()
        before = session.snapshot()
        with pytest.raises(LociError, match="read again"):
            session.denoise(reading, noise, 0.5)
        assert same(session.snapshot(), before)
    session.restore(saved)
    with pytest.raises(LociError, match="another session"):
        session.fork().denoise(session.read(ahead), noise, 0.5)


@pytest.mark.parametrize("name", ["hybrid", "context-5", "none"])
def test_a_reading_survives_writes_to_other_streams(name):
    """Even those that make the buffers grow under it."""
    session, latents, poses = started(name, capacity=5)
    alone = session.read(poses[1:, 5:7], streams=[1])
    expected = session.denoise(alone, latents[1:, 5:7], 0.5)
    size = session.stream.kv.keys[0].shape[2]
    for _ in range(10):
        session.write(latents[:1], poses[:1], streams=[0])
    if name != "none":
        assert session.stream.kv.keys[0].shape[2] > size
    assert torch.equal(session.denoise(alone, latents[1:, 5:7], 0.5), expected)
    assert session.lengths == [125, 5]


def calls(act, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often `act` attends."""
    count, real = 0, kv_view.F.scaled_dot_product_attention

    def attend(*arguments):
        nonlocal count
        count += 1
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kv_view.F, "scaled_dot_product_attention", attend)
        act()
    return count


@pytest.mark.parametrize("name", ["hybrid", "full", "window", "tower", "context-5"])
def test_streams_of_many_lengths_attend_in_few_calls(name, monkeypatch):
    """A layer's attention is one call, or a few where lengths are far apart, in any order."""
    model = tiny_world(MEMORIES[name])
    latents, poses = data(model, batch=8)
    session = model.session(8)
    for stream in range(8):
        session.write(latents[:1, : stream + 2], poses[:1, : stream + 2], [stream])
    for streams in (range(8), [3, 2, 0, 5]):
        rows = list(streams)
        reading = session.read(poses[rows, -2:], rows)
        found = session.denoise(reading, latents[rows, :2], 0.5)
        attended = calls(lambda r=reading, n=rows: session.denoise(r, latents[n, :2], 0.5),
                         monkeypatch)
        assert attended == model.config.dit.num_layers
        for row, stream in enumerate(rows):
            alone = session.denoise(session.read(poses[[stream], -2:], [stream]),
                                    latents[[stream], :2], 0.5)
            torch.testing.assert_close(found[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    # One of them very long: it goes by itself, so that the others are not filled up to it.
    monkeypatch.setattr(kv_view, "GROUP_COST", 4)
    if name == "full":
        for _ in range(8):
            session.write(latents[:1], poses[:1], [4])
        reading = session.read(poses[:, -2:])
        found = session.denoise(reading, latents[:, :2], 0.5)
        sizes = [part.stop - part.start for part in reading.evidence.attend.view.parts]
        assert sum(sizes) < 3 * max(sizes)
        assert len(sizes) > 1
        for stream in range(8):
            alone = session.denoise(session.read(poses[[stream], -2:], [stream]),
                                    latents[[stream], :2], 0.5)
            torch.testing.assert_close(found[stream : stream + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", one_of_each_kind(MEMORIES, choices))
def test_rows_may_come_in_any_order(name):
    session, latents, poses = started(name, batch=3)
    session.write(latents[[2, 0], 5:8], poses[[2, 0], 5:8], streams=[2, 0])
    order = [1, 2, 0]
    ahead, noise, time = poses[:, 8:10], latents[:, 8:10], torch.tensor([0.2, 0.5, 0.9])
    straight = session.denoise(session.read(ahead), noise, time)
    turned = session.denoise(session.read(ahead[order], order), noise[order], time[order])
    torch.testing.assert_close(turned, straight[order], atol=1e-6, rtol=1e-5)
    some = session.generate(ahead[order[:2]], noise[order[:2]], streams=order[:2])
    whole = session.generate(ahead, noise)
    torch.testing.assert_close(some, whole[order[:2]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", one_of_each_kind(MEMORIES, choices))
def test_generation_is_deterministic_and_commits_nothing(name):
    session, latents, poses = started(name)
    before = session.snapshot()
    ahead, noise = poses[:, 5:7], latents[:, 5:7]
    first = session.generate(ahead, noise)
    assert first.shape == noise.shape
    assert torch.equal(session.generate(ahead, noise), first)
    assert torch.equal(session.generate(ahead, noise, steps=session.model.config.steps), first)
    assert not torch.equal(session.generate(ahead, noise, steps=1), first)
    assert not torch.equal(session.generate(ahead, noise.flip(1)), first)
    assert same(session.snapshot(), before)
    with pytest.raises(LociError, match="use 1 or more"):
        session.generate(ahead, noise, steps=0)


def test_a_chunk_may_be_longer_than_the_models():
    session, latents, poses = started("context-1", frames=2, capacity=2)
    before = session.snapshot()
    out = session.generate(poses[:, 2:12], latents[:, 2:12])
    assert out.shape[1] == 10
    assert same(session.snapshot(), before)


@pytest.mark.parametrize("name", one_of_each_kind(MEMORIES))
def test_nothing_is_allocated_where_there_is_room(name):
    model = tiny_world(MEMORIES[name])
    latents, poses = data(model)
    session = model.session(2, capacity=12)

    def addresses() -> list[int]:
        return [t.data_ptr() for t in (*session.stream.kv.keys, *session.stream.kv.values)]

    start = addresses()
    for frame in range(12):
        session.write(latents[:, frame : frame + 1], poses[:, frame : frame + 1])
        reading = session.read(poses[:, -2:])
        for time in (1.0, 0.5):
            session.denoise(reading, latents[:, :2], time)
    assert addresses() == start


def test_gradients_are_kept_only_where_they_are_wanted():
    plain, latents, poses = started()
    assert torch.is_grad_enabled()
    out = plain.denoise(plain.read(poses[:, 5:7]), latents[:, :2], 0.5)
    assert not out.requires_grad
    assert not plain.stream.kv.keys[0].requires_grad
    session, *_ = started(gradients=True)
    session.model.zero_grad()
    with torch.no_grad():
        session.write(latents[:, 5:6], poses[:, 5:6])  # does not cut what others keep
    fork = session.fork()
    reading = fork.read(poses[:, 6:8])
    out = fork.denoise(reading, latents[:, 6:8], 0.5)
    fork.generate(poses[:, 6:8], latents[:, 6:8])  # nor does looking without gradients
    with torch.no_grad():
        fork.denoise(reading, latents[:, 6:8], 0.9)
        fork.write(latents[:, 6:7], poses[:, 6:7])
    out.square().sum().backward()
    bank = session.model.gist_bank.grad
    assert bank is not None
    assert bank.abs().max() > 0
    session.reset()
    assert not session.stream.kv.keys[0].requires_grad


def test_times_of_other_rows_are_refused():
    session, latents, poses = started()
    reading = session.read(poses[:, 5:7])
    for wrong in (torch.rand(2, 1), torch.rand(3)):
        with pytest.raises(LociError, match="for 2 rows; give one each"):
            session.denoise(reading, latents[:, 5:7], wrong)


def test_modes_may_change_on_the_way():
    expected, latents, poses = started(frames=6)
    with torch.inference_mode():
        session, *_ = started("hybrid", frames=3)
        tree = session.snapshot()
    session.restore(tree)
    session.write(latents[:, 3:6], poses[:, 3:6])
    for name, tensor in expected.snapshot().items():
        torch.testing.assert_close(session.snapshot()[name], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["hybrid", "window", "tower", "delta", "joint-5"])
def test_long_writes_go_in_pieces_that_fit(name, monkeypatch):
    """What tokens see of each other is a square: it is never larger than that of one pass."""
    model = tiny_world(MEMORIES[name])
    latents, poses = data(model)
    sizes, project = [], Block.project

    def watched(self, x, *rest, **options):
        sizes.append(x.shape[1] * x.shape[2])
        return project(self, x, *rest, **options)

    monkeypatch.setattr(Block, "project", watched)
    trees = []
    for limit in (8192, 20):
        monkeypatch.setattr("loci.streaming.stream.TOKENS", limit)
        session = model.session(2)
        session.write(latents[:, :11], poses[:, :11])
        trees.append(session.snapshot())
        assert all(size <= limit for size in sizes)
        sizes.clear()
    for part, tensor in trees[0].items():
        torch.testing.assert_close(trees[1][part], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["hybrid", "context-5", "learned-4", "ssm", "delta", "ttt",
                                  "spatial", "spatial-cross-32"])
def test_half_precision_streams(name):
    session, latents, poses = started(name)
    noise = latents[:, 5:7]
    expected = session.generate(poses[:, 5:7], noise)
    half = session.model.to(torch.bfloat16).session(2)
    half.write(latents[:, :5], poses[:, :5])
    assert half.stream.kv.keys[0].dtype == torch.bfloat16
    out = half.generate(poses[:, 5:7], noise)
    assert out.dtype == noise.dtype
    assert (out - expected).abs().mean() < 0.05 * expected.abs().mean()
    carried = state_bytes(session)  # in fp32, whatever the model is in
    assert state_bytes(half) == carried
    assert 2 * (half.bytes() - carried) == session.bytes() - carried


@pytest.mark.gpu
@pytest.mark.parametrize("name", one_of_each_kind(MEMORIES, choices))
def test_a_gpu_streams_what_a_cpu_streams(name, tmp_path):
    torch.set_float32_matmul_precision("highest")
    model, outs = tiny_world(MEMORIES[name], camera="inject"), []
    latents, poses = data(model)
    for device in ("cpu", "cuda"):
        session = model.to(device).session(2)
        session.write(latents[:, :6].to(device), poses[:, :6])
        session.write(latents[:1, 6:7].to(device), poses[:1, 6:7].to(device), streams=[0])
        session.save(tmp_path / device)
        session = Session.load(model, tmp_path / device)
        outs.append(session.generate(poses[:, 7:9], latents[:, 7:9].to(device)).cpu())
    torch.testing.assert_close(outs[0], outs[1], atol=1e-4, rtol=1e-4)
