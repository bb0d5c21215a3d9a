"""Gauges and places: a re-anchored stream goes on as if nothing had happened; a new one begins in
the map of another; what does not fit is refused and changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from boxes import CUBE, pose_of, view
from loci.errors import LociError
from loci.geometry import Camera
from loci.geometry.scene_map import Render
from loci.io.checkpoint import digest
from loci.memory import Compose, Hybrid, Map, Memory
from loci.memory.map import FORMS
from loci.models.world import WorldModel
from loci.streaming.place import Place, places
from loci.streaming.rollout import roll_out
from loci.streaming.session import Session
from tiny_world import MEMORIES, data, same, tiny_world

CHANGE = pose_of(57.0, (3.0, -1.0, 20.0))
WALK = torch.stack([pose_of(11.0 * n, (0.03 * n, 0.0, -0.02 * n)) for n in range(8)])[None]
# Of another episode in the same room, which begins elsewhere and looks elsewhere.
OTHER = torch.stack([pose_of(40.0 - 9.0 * n, (0.3, 0.1, -0.4)) for n in range(4)])[None]


def watch(session: Session, poses: Tensor, gauge: int = 0, there: Tensor | None = None) -> None:
    """Write what a camera sees of the box from poses (1, T, 4, 4) of its own gauge, told at
    `there`, poses of another."""
    model = session.model
    views = [view(pose, 0, CUBE, model.config.camera) for pose in poses[0]]
    draw = torch.Generator().manual_seed(len(views))
    session.write(
        torch.randn(1, len(views), *model.latent_shape, generator=draw),
        poses if there is None else there, gauge=gauge,
        depth=torch.stack([v.depth for v in views])[None],
        intrinsics=torch.stack([v.intrinsics for v in views])[None],
        images=torch.stack([v.payload for v in views])[None],
    )


def renders(session: Session, poses: Tensor, now: int) -> list[Render]:
    """The map of a session as seen from absolute poses (1, n, 4, 4)."""
    (store,) = session.stream.place_stores
    gauge = session.stream.gauges[0]
    return store.render(0, session.stream.relative([0], poses, gauge)[0], now)


def noise(model: WorldModel, frames: int = 2, seed: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, *model.latent_shape, generator=draw)


@pytest.mark.parametrize("name", ["hybrid", "context-5", "spatial", "joint+gists"])
def test_a_reanchored_session_generates_the_same(name: str) -> None:
    model = tiny_world(MEMORIES[name])
    latents, poses = data(model)
    still, moved = model.session(2), model.session(2)
    for session in (still, moved):
        session.write(latents[:, :5], poses[:, :5])
    moved.reanchor(CHANGE, 1)
    there = CHANGE @ poses
    for start in (5, 7):
        chunk = slice(start, start + 2)
        wanted = still.generate(poses[:, chunk], latents[:, chunk])
        found = moved.generate(there[:, chunk], latents[:, chunk], gauge=1)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
        still.write(wanted, poses[:, chunk])
        moved.write(found, there[:, chunk], gauge=1)


@pytest.mark.parametrize("memory", [
    Map(), Map(form="tsdf"), Compose(members=(Hybrid(), Map(read="channels"))),
], ids=["voxels", "tsdf", "gists and a map"])
def test_a_reanchored_map_shows_the_same(memory: Memory, tmp_path: Path) -> None:
    model = tiny_world(memory)
    still, moved = model.session(), model.session()
    for session in (still, moved):
        watch(session, WALK[:, :4])
    moved.reanchor(CHANGE, 1)
    moved.save(tmp_path / "memory.safetensors")
    watch(still, WALK[:, 4:6])
    wanted = still.generate(WALK[:, 6:], noise(model))
    for each in (moved, moved.fork(), Session.load(model, tmp_path / "memory.safetensors")):
        watch(each, WALK[:, 4:6], 1, CHANGE @ WALK[:, 4:6])
        found = each.generate(CHANGE @ WALK[:, 6:], noise(model), gauge=1)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_poses_of_another_gauge_are_refused_and_change_nothing() -> None:
    model = tiny_world(MEMORIES["hybrid"])
    latents, poses = data(model)
    session = model.session(2)
    session.write(latents[:, :3], poses[:, :3])
    session.reanchor(CHANGE, 2, streams=[1])
    before, ahead = session.snapshot(), (latents[:, 3:5], poses[:, 3:5])
    line = "poses of gauge 0, and stream 1 stands in gauge 2; say by `reanchor` how one lies in"
    for refused in (
        lambda: session.write(*ahead), lambda: session.read(ahead[1]),
        lambda: session.generate(ahead[1], ahead[0]),
    ):
        with pytest.raises(LociError, match=line) as caught:
            refused()
        assert "\n" not in str(caught.value)
    for change, gauge, words in (
        (2 * CHANGE, 3, "no rigid motion"), (CHANGE, 2, "stream 1 stands in gauge 2 already"),
        (CHANGE[:3], 3, "change of shape"),
    ):
        with pytest.raises(LociError, match=words):
            session.reanchor(change, gauge, streams=[1])
    with pytest.raises(LociError, match="give a whole number"):
        session.write(*ahead, gauge=0.5)
    assert same(before, session.snapshot())
    session.write(latents[:1, 3:5], poses[:1, 3:5], streams=[0])
    session.write(latents[1:, 3:5], CHANGE @ poses[1:, 3:5], streams=[1], gauge=2)
    session.reset([1])
    session.write(latents[1:, :1], poses[1:, :1], streams=[1])


def test_a_rollout_goes_on_in_its_gauge() -> None:
    model = tiny_world(MEMORIES["hybrid"])
    latents, poses = data(model, batch=1)
    still, moved = model.session(), model.session()
    for session in (still, moved):
        session.write(latents[:, :3], poses[:, :3])
    moved.reanchor(CHANGE, 1)
    draw = lambda number: noise(model, seed=number)
    wanted = torch.cat([*roll_out(still, poses[:, 3:7], 2, draw)], dim=1)
    found = torch.cat([*roll_out(moved, CHANGE @ poses[:, 3:7], 2, draw, gauge=1)], dim=1)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_a_file_of_version_3_stands_in_gauge_0(tmp_path: Path) -> None:
    model = tiny_world(Map())
    session = model.session()
    watch(session, WALK[:, :3])
    now, old = tmp_path / "now.safetensors", tmp_path / "old.safetensors"
    session.save(now)
    tree = load_file(now)
    del tree["gauge"]
    tree["map.0.gauge"] = torch.tensor(0)
    with safe_open(now, "pt") as file:
        notes = file.metadata()
    kept = {name: notes[name] for name in ("format", "config", "weights")}
    save_file(tree, old, kept | {"version": "3", "digest": digest(tree)})
    assert same(Session.load(model, old).snapshot(), session.snapshot())
    with pytest.raises(LociError, match="of version 3, which only its own model reads"):
        Place.load(old)


@pytest.mark.parametrize("form", FORMS)
def test_a_session_begins_in_the_place_of_another(form: str, tmp_path: Path) -> None:
    """It sees what the other saw before it has seen anything like it, and goes on writing into the
    same map; forks and files begin there, too."""
    model = tiny_world(Map(form=form))
    first = model.session()
    watch(first, WALK)
    first.reanchor(CHANGE, 7)
    first.save(tmp_path / "first.safetensors")
    new = tiny_world(Compose(members=(Hybrid(), Map(form=form, read="channels")))).session()
    new.begin_in(Place.load(tmp_path / "first.safetensors"))
    new.save(tmp_path / "new.safetensors")
    ahead, there = CHANGE @ WALK[:, 2:6], CHANGE @ OTHER
    alone = new.model.session()
    alone.begin_in(first.place())
    for session in (new, new.fork(), Session.load(new.model, tmp_path / "new.safetensors"), alone):
        assert session.lengths == [0]
        for seen, known in zip(renders(session, ahead, 0), renders(first, ahead, 8), strict=True):
            assert known.covered.float().mean() > 0.8
            assert torch.equal(seen.covered, known.covered)
            torch.testing.assert_close(seen.depth, known.depth, atol=1e-4, rtol=0)
            torch.testing.assert_close(seen.payload, known.payload, atol=1e-4, rtol=0)
            assert torch.equal(seen.age, known.age)
        watch(session, OTHER[:, :1], 7, there[:, :1])
    empty = new.model.session()
    watch(empty, OTHER[:, :1])
    shares = [float(sum(r.covered.float().mean() for r in found)) for found in (
        renders(empty, WALK[:, 2:6], 1), renders(new, ahead, 1)
    )]
    assert shares[0] < 0.8 * shares[1]
    # Nothing of the episode: the network has met one frame, and sees as much of the past.
    assert new.tokens() == empty.tokens()
    assert (new.stream.kv.keys[0] - empty.stream.kv.keys[0]).abs().max() == 0
    # Both maps go on alike: they are one, in two frames of coordinates.
    watch(first, OTHER[:, :1], 7, there[:, :1])
    for session in (first, new):
        watch(session, OTHER[:, 1:], 7, there[:, 1:])
    for poses in (ahead, there):
        for seen, known in zip(renders(new, poses, 4), renders(first, poses, 12), strict=True):
            alike = (seen.depth - known.depth).abs() < 1e-4
            assert (alike & (seen.age == known.age)).float().mean() > 0.98


def test_a_new_map_is_as_training_sees_it_wherever_its_stream_begins() -> None:
    model = tiny_world(Map())
    here, there = model.session(), model.session()
    watch(here, WALK)
    watch(there, WALK, 0, CHANGE @ WALK)
    maps = [session.snapshot() for session in (here, there)]
    assert torch.equal(maps[0]["map.0.anchor"], maps[1]["map.0.anchor"])
    apart = {*maps[0]["map.0.keys"].tolist()} ^ {*maps[1]["map.0.keys"].tolist()}
    assert len(apart) < 0.01 * len(maps[0]["map.0.keys"])


def test_a_stream_is_reset_out_of_its_place() -> None:
    model = tiny_world(Map())
    first, new = model.session(), model.session(2)
    nothing = new.snapshot()
    watch(first, WALK)
    new.begin_in(first.place(), streams=[1])
    assert new.bytes(0) == 0 < new.bytes(1) == first.stream.place_stores[0].bytes(0)
    blind = {"depth": torch.zeros(1, 1, 32, 32), "images": torch.zeros(1, 1, 32, 32, 3).byte(),
             "intrinsics": view(WALK[0, 0], 0, None, model.config.camera).intrinsics[None, None]}
    with pytest.raises(LociError, match="the depth of frame 0 is unknown everywhere"):
        new.write(noise(model, 1), WALK[:, :1], [0], **blind)
    # In a known place, the first frame needs no depth.
    new.fork().write(noise(model, 1), WALK[:, :1], [1], **blind)
    new.reset([1])
    assert same(new.snapshot(), nothing)


def test_a_place_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model = tiny_world(Map())
    first = model.session()
    watch(first, WALK[:, :3])
    place, other = first.place(), model.session()
    watch(other, OTHER[:, :1])
    for session, given, line in (
        (tiny_world(Map(form="tsdf")).session(), place, "a map of another form"),
        (tiny_world(Map(voxel=0.2)).session(), place, r"this memory keeps some of 0\.2 m"),
        (tiny_world(MEMORIES["hybrid"]).session(), place, "knows one by nothing"),
        (model.session(), replace(place, camera=Camera().hash()), "through another camera"),
        (model.session(), replace(place, codec="0"), "through another codec"),
        (other, place, "stream 0 has seen 1 frames; a place is where a stream begins"),
    ):
        before = session.snapshot()
        with pytest.raises(LociError, match=line) as caught:
            session.begin_in(given)
        assert "\n" not in str(caught.value)
        assert same(before, session.snapshot())
    for session, line in (
        (model.session(), "a stream that has seen nothing knows no place"),
        (other, "streams .1. of a session"),
    ):
        with pytest.raises(LociError, match=line):
            session.place(1 if session is other else 0)
    begun = model.session().begin_in(first.reanchor(CHANGE, 1).place())
    with pytest.raises(LociError, match="poses of gauge 0, and stream 0 stands in gauge 1"):
        watch(begun, OTHER)
    # Files without one.
    for session, line in (
        (model.session(), "knows no place"), (tiny_world(MEMORIES["none"]).session(), "no place"),
    ):
        session.save(tmp_path / "none.safetensors")
        with pytest.raises(LociError, match=line):
            places(tmp_path / "none.safetensors")
    first.save(tmp_path / "one.safetensors")
    with pytest.raises(LociError, match="holds no place of stream 3; give one of 0"):
        Place.load(tmp_path / "one.safetensors", 3)
