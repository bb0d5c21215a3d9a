"""The memory of a session as a thing: forks, snapshots, files, and the text it was begun with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loci.errors import LociError
from loci.memory import ROWS
from loci.models.wan import Wan
from loci.streaming.session import Session
from tiny_world import data, same, started, tiny_world


def test_forks_part_and_snapshots_of_nothing_are_nothing():
    session, latents, poses = started()
    fork = session.fork(capacity=40)
    size = fork.stream.kv.keys[0].shape[2]
    assert size > session.stream.kv.keys[0].shape[2]
    assert same(fork.snapshot(), session.snapshot())
    for frame in range(5, 12):
        fork.write(latents[:, frame : frame + 1], poses[:, frame : frame + 1])
    assert fork.stream.kv.keys[0].shape[2] == size
    assert session.lengths == [5, 5]
    empty = session.model.session(2)
    nothing = empty.snapshot()
    assert empty.tokens() == empty.bytes() == 0
    fork.restore(nothing)
    assert fork.lengths == [0, 0]
    assert same(fork.snapshot(), nothing)
    session.reset()
    assert same(session.snapshot(), nothing)


@pytest.mark.parametrize("name", ["hybrid", "context-5"])
def test_a_stream_that_starts_over_is_as_good_as_new(name):
    """Equal memories compare equal, whatever was there before."""
    session, latents, poses = started(name, frames=9)
    session.reset([1])
    assert session.lengths == [9, 0]
    session.write(latents[1:, 2:4], poses[1:, 2:4], streams=[1])
    fresh = session.model.session(2)
    fresh.write(latents[:1, :9], poses[:1, :9], streams=[0])
    fresh.write(latents[1:, 2:4], poses[1:, 2:4], streams=[1])
    ours, theirs = session.snapshot(), fresh.snapshot()
    for part, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[part], atol=1e-6, rtol=1e-6)


def test_foreign_snapshots_are_refused_untouched():
    session, *_ = started()
    before = session.snapshot()
    one, *_ = started(batch=1)
    other, *_ = started("context-5")
    for tree, words in (
        (one.snapshot(), "a memory of 1 streams does not fit a session of 2"),
        (other.snapshot(), "another model or row"),
        ({}, "no snapshot"),
        ({name: before[name] for name in ("written", "reference", "gauge")},
         "another model or row"),
    ):
        with pytest.raises(LociError, match=words):
            session.restore(tree)
        assert same(session.snapshot(), before)
    with pytest.raises(LociError, match="use 1 or more"):
        session.model.session(0)


@pytest.mark.parametrize("name", ["hybrid", "context-5"])
def test_files_hold_the_whole_memory(name, tmp_path):
    session, latents, poses = started(name)
    session.write(latents[1:, 5:8], poses[1:, 5:8], streams=[1])
    for state in (session, session.model.session(3)):
        state.save(tmp_path / "memory.safetensors")
        again = Session.load(session.model, tmp_path / "memory.safetensors")
        assert again.lengths == state.lengths
        assert same(again.snapshot(), state.snapshot())
    assert [p.name for p in tmp_path.iterdir()] == ["memory.safetensors"]


def test_bad_files_are_refused_in_one_line(tmp_path: Path):
    session, *_ = started()
    model, good = session.model, tmp_path / "good.safetensors"
    session.save(good)
    content = good.read_bytes()
    tree = load_file(good)

    def file(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    def noted(name: str, **notes: str) -> Path:
        path = tmp_path / name
        save_file(tree, path, notes)
        return path

    damaged = bytearray(content)
    damaged[-5] ^= 0xFF
    other_weights = tiny_world(ROWS["hybrid"])
    with torch.no_grad():
        other_weights.gist_bank.add_(1e-3)
    for path, reader, words in (
        (tmp_path / "nowhere.safetensors", model, "cannot read memory"),
        (tmp_path, model, "cannot read memory"),
        (file("short", content[:-100]), model, "cannot read memory"),
        (file("head", content[:30]), model, "cannot read memory"),
        (file("text", b"no memory at all"), model, "cannot read memory"),
        (file("empty", b""), model, "cannot read memory"),
        (file("damaged", bytes(damaged)), model, "damaged"),
        (noted("foreign", format="pt"), model, "not a saved memory"),
        (noted("version", format="loci-session", version="0"), model, "of version 0, this is 4"),
        (good, tiny_world(ROWS["none"]), "another model or memory row"),
        (good, tiny_world(ROWS["hybrid"], camera="inject"), "another model or memory row"),
        (good, other_weights, "other weights"),
    ):
        with pytest.raises(LociError, match=words) as error:
            Session.load(reader, path)
        assert "\n" not in str(error.value)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    session, latents, poses = started()
    path = tmp_path / "memory.safetensors"
    session.save(path)
    before = path.read_bytes()
    session.write(latents[:, 5:6], poses[:, 5:6])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("loci.streaming.files.save_file", full)
    with pytest.raises(LociError, match="No space left"):
        session.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def text_world():
    model = tiny_world(ROWS["hybrid"], text_dim=6)
    torch.manual_seed(3)
    return model, torch.randn(2, 5, 6), (5, 2)


def test_text_is_encoded_once_for_the_whole_stream(monkeypatch):
    model, text, lengths = text_world()
    calls = []
    encode = Wan.encode_text
    monkeypatch.setattr(Wan, "encode_text", lambda *a: calls.append(1) or encode(*a))
    crossed = []
    for block in model.dit.blocks:
        block.cross_attn.k.register_forward_hook(lambda *_: crossed.append(1))
    latents, poses = data(model)
    session = model.session(2).init(text, lengths)
    assert len(calls) == 1
    assert len(crossed) == len(model.dit.blocks)
    session.write(latents[:, :3], poses[:, :3])
    session.write(latents[:, 3:4], poses[:, 3:4])
    session.generate(poses[:, 4:6], latents[:, 4:6])
    assert len(calls) == 1
    assert len(crossed) == len(model.dit.blocks)


def test_texts_of_different_lengths_are_what_they_are_alone(tmp_path):
    model, text, lengths = text_world()
    latents, poses = data(model)
    ahead, noise = poses[:, 4:6], latents[:, 4:6]
    both = model.session(2).init(text, lengths)
    both.write(latents[:, :4], poses[:, :4])
    got = both.generate(ahead, noise)
    both.save(tmp_path / "memory.safetensors")
    loaded = Session.load(model, tmp_path / "memory.safetensors")
    assert torch.equal(loaded.generate(ahead, noise), got)
    assert torch.equal(both.fork().generate(ahead, noise), got)
    for row in range(2):
        one = slice(row, row + 1)
        some = both.generate(ahead[one], noise[one], streams=[row])
        torch.testing.assert_close(some, got[one], atol=1e-5, rtol=1e-5)
        alone = model.session(1).init(text[one, : lengths[row]])
        alone.write(latents[one, :4], poses[one, :4])
        torch.testing.assert_close(
            alone.generate(ahead[one], noise[one]), got[one], atol=1e-5, rtol=1e-5
        )
    other = model.session(2).init(text.flip(0), lengths)
    other.write(latents[:, :4], poses[:, :4])
    assert (other.generate(ahead, noise) - got).abs().max() > 1e-3


def test_bad_text_is_refused_untouched():
    model, text, lengths = text_world()
    latents, poses = data(model)
    session = model.session(2).init(text, lengths)
    session.write(latents[:, :2], poses[:, :2])
    before = session.snapshot()
    for arguments, words in (
        ((text[:1], (5,)), "a row a stream"),
        ((text, (5, 6)), "a length of 0 to 5"),
        ((text, (5,)), "a length of 0 to 5"),
        ((text, (5, -1)), "a length of 0 to 5"),
        ((text[..., :3], lengths), "give .B, S, 6."),
        ((torch.zeros(2, 20, 6), (20, 1)), "a length of 0 to 12"),
    ):
        with pytest.raises(LociError, match=words):
            session.init(*arguments)
        assert same(session.snapshot(), before)
    with pytest.raises(LociError, match="no text input"):
        tiny_world(ROWS["none"]).session(2).init(text, lengths)
