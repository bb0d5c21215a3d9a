"""Frames that are picked by what they saw: training sees what a stream sees, files and forks go on,
what cannot be looked at is refused, and each rule picks what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from box_walks import EXTRAS, FRAMES, episode, packed, streamed, surveyed, watch
from loci.errors import LociError
from loci.memory import Compose, Context, Episodic, Joint, Map, Memory
from loci.streaming.session import Session
from tiny_world import same, tiny_world

PICKS = ("revealed", "cascade", "surfels", "cover")
MEMORIES: dict[str, Memory] = {
    **{f"{pick}, {read}": Episodic(frames=2, pick=pick, read=read)
       for pick in PICKS for read in ("tokens", "cross")},
    "context by view": Context(frames=3, retrieval="cascade"),
    "context by surfels": Context(frames=4, retrieval="surfels"),
    "joint by view": Joint(frames=3, retrieval="cascade"),
    "joint by view and a map": Compose(members=(
        Map(read="channels", window=0), Joint(frames=3, retrieval="cascade"),
    )),
    "as the paper has it": Compose(members=(
        Map(window=3), Episodic(frames=3, pick="revealed", read="cross"),
    )),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_training_sees_what_a_stream_sees(name: str) -> None:
    """In one pass, frame by frame, and from what was looked up before."""
    memory = MEMORIES[name]
    model = tiny_world(memory)
    data = episode(model, (25.0, -32.0))
    starts = [1, 3, 5, 7]
    given = data["latents"], data["noisy"][:, [0] * 4], data["time"][:, [0] * 4], data["poses"]
    with torch.no_grad():
        torch.testing.assert_close(
            packed(model, data), streamed(model, data), atol=1e-5, rtol=1e-5
        )
        watched = model(*given, starts, extras={name: data[name] for name in EXTRAS})
        kept = model(*given, starts, surveyed=surveyed(model, data))
    torch.testing.assert_close(kept, watched)


@pytest.mark.parametrize("name", ["revealed, cross", "cascade, tokens", "joint by view"])
def test_what_was_seen_goes_through_forks_and_files(name: str, tmp_path: Path) -> None:
    model = tiny_world(MEMORIES[name])
    data = episode(model, (25.0, -32.0))
    session = model.session(2)
    watch(session, data, 0, 5)
    session.save(tmp_path / "memory.safetensors")
    fork, loaded = session.fork(), Session.load(model, tmp_path / "memory.safetensors")
    for each in (session, fork, loaded):
        watch(each, data, 5, 7)
    assert same(session.snapshot(), fork.snapshot())
    assert same(session.snapshot(), loaded.snapshot())
    with torch.no_grad():
        outs = [each.denoise(each.read(data["poses"][:, 7:9]), data["noisy"][:, 0], 0.5)
                for each in (session, fork, loaded)]
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])
    session.reset([0])
    assert session.bytes(0) < fork.bytes(0)
    with pytest.raises(LociError):
        tiny_world(Map()).session(2).restore(fork.snapshot())


def test_a_key_frame_shows_what_none_did_before() -> None:
    """A camera that turns on the spot by a tenth of its view a frame keeps a frame each time that a
    third of the view is new; one that looks back keeps none."""
    model = tiny_world(Episodic(frames=8, threshold=0.3, read="cross"))
    data = episode(model, (6.0, 0.0))
    session = model.session(2)
    watch(session, data, 0, FRAMES)
    kept = next(s for s in session.stream.stores if s.name == "key-frames").kept
    assert kept[1]["number"].tolist() == [0]
    numbers = kept[0]["number"]
    assert numbers[0] == 0
    assert 2 <= len(numbers) < 5
    back = {name: value.flip(1) for name, value in data.items() if name not in ("noisy", "time")}
    watch(session, back, 0, FRAMES)
    assert next(s for s in session.stream.stores if s.name == "key-frames").kept[0][
        "number"
    ].tolist() == numbers.tolist()


@pytest.mark.parametrize("name", ["revealed, cross", "cascade, tokens"])
def test_what_cannot_be_looked_at_is_refused(name: str) -> None:
    model = tiny_world(MEMORIES[name])
    data = episode(model)
    session = model.session(2)
    with pytest.raises(LociError, match="asks for the depth of every frame"):
        session.write(data["latents"][:, :1], data["poses"][:, :1])
    watch(session, data, 0, 3)
    before = session.snapshot()
    with pytest.raises(LociError, match="negative depth"):
        watch(session, data | {"depth": -data["depth"]}, 3, 4)
    assert same(before, session.snapshot())
    session.write(data["latents"][:, 3:5], data["poses"][:, 3:5])
    assert session.lengths == [5, 5]


def test_what_grows_says_so() -> None:
    """A composition grows as its member that grows most."""
    for memory in (Map(), Episodic(read="cross"), MEMORIES["as the paper has it"]):
        assert memory.growth == "linear"
        assert not memory.bounded
    assert Map(limit=1000).bounded


@pytest.mark.parametrize(
    ("change", "line"),
    [({"frames": 0}, "use 1 or more"), ({"pick": "cascad"}, "did you mean 'cascade'"),
     ({"read": "ports"}, "knows no read 'ports'"), ({"threshold": 0.0}, "give a share")],
)
def test_settings_that_are_none_are_refused(change: dict, line: str) -> None:
    with pytest.raises(LociError, match=line):
        Episodic(**change)
