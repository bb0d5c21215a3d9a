"""A rollout that goes on: its memory, its decoder and its pose, saved and continued together."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loci.errors import LociError
from loci.memory import ROWS
from loci.models.rollout import Rollout
from loci.models.world import WorldModel
from loci.seeds import normal
from loci.streaming.rollout import roll_out_pictures
from tiny_video import SIDE, with_vae
from tiny_world import tiny_world, walk


def noise(model: WorldModel, number: int) -> Tensor:
    return normal((1, model.config.chunk, *model.latent_shape), 0, "rollout", number)


def picture() -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=draw)


def begun(model: WorldModel, poses: Tensor) -> tuple[Rollout, Tensor]:
    rollout = Rollout(model.session(1))
    return rollout, rollout.begin(picture(), poses[0])


def test_images_are_those_of_all_latents_decoded_at_once() -> None:
    """The decoder goes on from chunk to chunk; the session gets what a hand would give it."""
    model, poses = with_vae(), walk(1, 5)[0]
    rollout, first = begun(model, poses)
    shown = [first, *rollout.extend(poses[1:], partial(noise, model))]
    assert [len(part) for part in shown] == [1, 8, 8]
    session, latents = model.session(1), [model.codec.encode(picture()[None, None])]
    session.write(latents[0], poses[None, :1])
    for number in range(2):
        where = poses[None, 1 + 2 * number : 3 + 2 * number]
        latents.append(session.generate(where, noise(model, number)))
        session.write(latents[-1], where)
    by_hand = model.codec.decode(torch.cat(latents, dim=1))[0]
    assert torch.equal(torch.cat(shown), by_hand)
    tree, other = rollout.session.snapshot(), session.snapshot()
    assert all(torch.equal(tree[name], other[name]) for name in other)


@pytest.mark.parametrize("codec", ["image", "video"])
def test_to_go_on_later_is_to_go_on_at_once(codec: str, tmp_path: Path) -> None:
    model = with_vae() if codec == "video" else tiny_world(ROWS["hybrid"])
    poses, draw = walk(1, 5)[0], partial(noise, model)
    whole, _ = begun(model, poses)
    at_once = torch.cat(list(whole.extend(poses[1:], draw)))
    rollout, _ = begun(model, poses)
    parts = list(rollout.extend(poses[1:3], draw))
    rollout.save(tmp_path / "memory.safetensors")
    forked = rollout.fork()
    later = Rollout.load(model, tmp_path / "memory.safetensors")
    assert torch.equal(later.pose, poses[2])
    for each in (later, forked, rollout):  # one after the other: none of them moves another
        more = list(each.extend(poses[3:], draw))
        assert torch.equal(torch.cat(parts + more), at_once)
        assert torch.equal(each.pose, poses[4])


def test_a_rollout_that_is_left_stands_where_its_last_chunk_ended(tmp_path: Path) -> None:
    model, poses = tiny_world(ROWS["hybrid"]), walk(1, 9)[0]
    rollout, _ = begun(model, poses)
    for _ in rollout.extend(poses[1:], partial(noise, model)):
        break
    assert rollout.session.lengths == [3]
    assert torch.equal(rollout.pose, poses[2])
    whole, _ = begun(model, poses)
    expected = torch.cat(list(whole.extend(poses[1:], partial(noise, model))))
    more = torch.cat(list(rollout.extend(poses[3:], partial(noise, model))))
    assert torch.equal(more, expected[2:])


def test_a_session_s_file_will_do_where_images_are_decoded_one_by_one(tmp_path: Path) -> None:
    file, poses = tmp_path / "session.safetensors", walk(1, 5)[0]
    for model in (tiny_world(ROWS["hybrid"]), with_vae()):
        rollout, _ = begun(model, poses)
        list(rollout.extend(poses[1:3], partial(noise, model)))
        rollout.session.save(file)
        if model is with_vae():
            with pytest.raises(LociError, match="lacks the decoder's state"):
                Rollout.load(model, file)
            continue
        later = Rollout.load(model, file)
        assert later.pose is None
        for one, other in zip(
            later.extend(poses[3:], partial(noise, model)),
            rollout.extend(poses[3:], partial(noise, model)), strict=True,
        ):
            assert torch.equal(one, other)


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    model, poses = tiny_world(ROWS["hybrid"]), walk(1, 4)[0]
    rollout, _ = begun(model, poses)
    with pytest.raises(LociError, match="this rollout has begun"):
        rollout.begin(picture())
    with pytest.raises(LociError, match="3 frames are no whole number of chunks of 2"):
        next(rollout.extend(poses[1:], partial(noise, model)))
    assert rollout.session.lengths == [1]
    fresh = Rollout(model.session(1))
    with pytest.raises(LociError, match="image of shape"):
        fresh.begin(picture()[:-1])
    with pytest.raises(LociError, match="no rigid motion"):
        fresh.begin(picture(), 2 * poses[0])
    assert not fresh.begun
    assert fresh.pose is None
    with pytest.raises(LociError, match="a memory of 2 streams"):
        Rollout(model.session(2))
    two = model.session(2)
    two.write(torch.randn(2, 1, *model.latent_shape), walk(2, 1))
    two.save(tmp_path / "two.safetensors")
    with pytest.raises(LociError, match="holds 2 streams"):
        Rollout.load(model, tmp_path / "two.safetensors")


@torch.no_grad()
def test_chunks_that_are_videos_of_their_own_go_on_from_a_file(tmp_path: Path) -> None:
    """As the release's: each begins where the camera stands, and shows what is new."""
    config = replace(tiny_world(ROWS["context-5"], chunk=3).config, restart=1)
    torch.manual_seed(0)
    model, poses = config.build().eval(), walk(1, 9)[0]
    rollout, first = begun(model, poses)
    shown = [first, *rollout.extend(poses[1:], partial(noise, model))]
    assert [len(part) for part in shown] == [1, 2, 2, 2, 2]
    session = model.session(1)
    session.write(model.codec.encode(picture()[None, None]), poses[None, :1])
    by_hand = roll_out_pictures(session, poses[None], partial(noise, model))
    for part, whole in zip(shown[1:], by_hand, strict=True):
        assert torch.equal(part, whole[0])
    half, _ = begun(model, poses)
    kept = list(half.extend(poses[1:5], partial(noise, model)))
    half.save(tmp_path / "half.safetensors")
    again = Rollout.load(model, tmp_path / "half.safetensors")
    kept += again.extend(poses[5:], partial(noise, model))
    assert torch.equal(torch.cat(kept), torch.cat(shown[1:]))
    again.pose = None
    with pytest.raises(LociError, match="where its camera stands"):
        next(again.extend(poses[7:], partial(noise, model)))
