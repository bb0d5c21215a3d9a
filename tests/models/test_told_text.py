"""Sentences that are told amid an episode: training reads them as a stream does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from loci.errors import LociError
from loci.memory import Compose, GatedDelta, Hybrid, Joint, Memory
from loci.models.text import HashedWords
from loci.models.world import WorldModel
from loci.streaming.session import Session
from tiny_world import data, same, tiny_world

MEMORIES: dict[str, Memory] = {
    "gists and a state": Compose(members=(Hybrid(), GatedDelta())), "joint": Joint(frames=3),
}
SENTENCES = ("The red cube is taken away.", "")
SINCE, STARTS, CHUNK, WIDTH = [5, 3], [1, 3, 5, 7], 2, 24


def reading(memory: Memory) -> WorldModel:
    """A tiny world model that reads sentences."""
    config = tiny_world(memory, text_dim=WIDTH).config
    torch.manual_seed(0)
    model = replace(config, text=HashedWords()).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("name", MEMORIES)
def test_training_reads_what_a_stream_is_told(name: str) -> None:
    """Each stream is told its sentence when its frame comes; before that, nothing."""
    model = reading(MEMORIES[name])
    latents, poses = data(model, frames=9)
    noisy = torch.randn(2, len(STARTS), CHUNK, *model.latent_shape)
    time = torch.rand(2, len(STARTS))
    text, lengths = model.embed([*SENTENCES, ""])
    with torch.no_grad():
        packed = model(
            latents, noisy, time, poses, STARTS, since=SINCE,
            text=model.dit.encode_text(text, lengths),
        )
    session, at, outputs = model.session(2), 0, []
    for group, start in enumerate(STARTS):
        for frame in range(at, start):
            session.tell(heard(frame))
            session.write(latents[:, frame : frame + 1], poses[:, frame : frame + 1])
        at = start
        session.tell(heard(start))
        shown = session.read(poses[:, start : start + CHUNK])
        outputs.append(session.denoise(shown, noisy[:, group], time[:, group]))
    torch.testing.assert_close(packed, torch.stack(outputs, dim=1), atol=1e-5, rtol=1e-5)


def heard(frame: int) -> list[str]:
    return [s if frame >= begin else "" for s, begin in zip(SENTENCES, SINCE, strict=True)]


def test_what_is_told_changes_what_comes_and_nothing_that_was_written(tmp_path) -> None:
    model = reading(Hybrid())
    latents, poses = data(model, frames=8)
    session = model.session(2)
    silent = model.session(2).init("")
    for one in (session, silent):
        one.write(latents[:, :5], poses[:, :5])
    before = session.snapshot()
    assert same(before, silent.snapshot())
    noise = torch.randn(2, 2, *model.latent_shape)
    drawn = session.generate(poses[:, 5:7], noise)
    session.tell(SENTENCES[0])
    told = session.generate(poses[:, 5:7], noise)
    assert not torch.allclose(told, drawn)
    assert same(*({n: x for n, x in tree.items() if n[:5] != "text."}
                  for tree in (before, session.snapshot())))
    session.save(tmp_path / "told.safetensors")
    restored = Session.load(model, tmp_path / "told.safetensors")
    assert torch.equal(restored.generate(poses[:, 5:7], noise), told)
    assert torch.equal(session.fork().generate(poses[:, 5:7], noise), told)
    assert torch.equal(session.tell(None).generate(poses[:, 5:7], noise), drawn)


def test_what_cannot_be_told() -> None:
    session = reading(Hybrid()).session(2)
    with pytest.raises(LociError, match="3 sentences for 2 streams; give one each"):
        session.tell(["a", "b", "c"])
    with pytest.raises(LociError, match="sentences have their own lengths"):
        session.tell(["a", "b"], [1, 1])
    with pytest.raises(LociError, match="reads no sentences"):
        tiny_world(Hybrid(), text_dim=WIDTH).session(2).tell("a cube")
    config = tiny_world(Hybrid()).config
    with pytest.raises(LociError, match=r"set dit.text_dim"):
        replace(config, text=HashedWords())
