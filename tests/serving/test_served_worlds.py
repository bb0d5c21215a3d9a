"""Worlds at a server: frames come chunk by chunk, as a session in this process makes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from loci.errors import LociError
from loci.models.rollout import Rollout
from loci.seeds import normal
from loci.serving.client import ServerError
from loci.serving.pool import Pool, allocated
from loci.serving.service import slots
from loci.streaming.rollout import roll_out
from loci.streaming.session import Session
from recollecting import Recollecting
from served import OPTIONS, connect, serving, worlds
from tiny_video import with_vae
from tiny_world import MEMORIES, tiny_world, walk

CHUNK = 2
IMAGE = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)


def expected(session: Session, poses: torch.Tensor, seed: int = 0) -> np.ndarray:
    """What a session shows along poses (N, 4, 4), the first of which is that of the picture."""
    model = session.model

    def noise(number: int) -> torch.Tensor:
        return normal((1, CHUNK, *model.latent_shape), seed, "rollout", number)

    with torch.no_grad():
        latents = [model.codec.encode(torch.from_numpy(IMAGE)[None, None])]
        session.write(latents[0], poses[None, :1])
        latents += roll_out(session, poses[None, 1:], CHUNK, noise)
        return np.concatenate([model.codec.decode(part)[0].numpy() for part in latents])


@pytest.mark.parametrize("name", ["hybrid", "context-5", "two-states"])
def test_a_world_is_that_of_a_session_of_its_own(name) -> None:
    model, poses = tiny_world(MEMORIES[name]), walk(1, 9)[0]
    shown = expected(model.session(), poses, 5)
    with serving(worlds(model), slots=2) as server, connect(server) as client:
        assert client.metadata["chunk"] == CHUNK
        others = [connect(server) for _ in range(2)]
        client.seed(5)
        found = [client.init(IMAGE, pose=poses[0].numpy())]
        for other in others:  # two of three do not fit beside each other
            other.init(IMAGE)
        found += client.step(poses=poses[1:5].numpy())
        for other in others:
            list(other.step(keys="w"))
        motion = torch.linalg.solve(poses[4:8], poses[5:9])
        assert server.engine.pool.returned >= 1
        found += client.step(poses=poses[5:9].numpy())
        assert [len(frames) for frames in found] == [1, 2, 2, 2, 2]
        assert np.array_equal(np.concatenate(found), shown)
        # The same way again, each frame relative to the one before it.
        client.seed(5)
        again = [client.init(IMAGE, pose=poses[0].numpy())]
        again += client.step(poses=poses[1:5].numpy())
        again += client.step(motion=motion.numpy())
        difference = np.concatenate(again).astype(int) - shown
        assert np.abs(difference).max() <= 1
        for other in others:
            other.close()


def test_pictures_of_a_video_s_codec_are_those_of_a_rollout(tmp_path) -> None:
    """Four of each latent frame but the first. Three worlds in two slots: a decoder waits on disk
    with its memory."""
    model, poses = with_vae(), walk(1, 9)[0]
    rollout = Rollout(model.session(1))
    image = torch.from_numpy(IMAGE)
    shown = [rollout.begin(image, poses[0])]
    shown += rollout.extend(poses[1:], lambda number: normal(
        (1, CHUNK, *model.latent_shape), 5, "rollout", number
    ))
    with serving(worlds(model), slots=2, saved=tmp_path) as server, connect(server) as client:
        assert client.metadata["images_per_frame"] == 4
        others = [connect(server) for _ in range(2)]
        for other in others:
            other.init(IMAGE)
        client.seed(5)
        found = [client.init(IMAGE, pose=poses[0].numpy())]
        found += client.step(poses=poses[1:5].numpy())
        client.save("half")
        held = client.info()["bytes"]
        decoder = sum(part.numel() * part.element_size() for part in rollout._decoder.values())
        assert held == model_bytes(rollout, 5) + decoder
        for other in others:
            list(other.step(keys="w"))
        assert server.engine.pool.evicted >= 2
        found += client.step(poses=poses[5:9].numpy())
        assert [len(frames) for frames in found] == [1, 8, 8, 8, 8]
        assert np.array_equal(np.concatenate(found), torch.cat(shown).numpy())
        others[0].restore("half")
        again = list(others[0].step(poses=poses[5:7].numpy()))
        assert np.array_equal(again[0], found[3])
        others[1].fork(others[0].session)
        for other in others:
            (more,) = other.step(poses=poses[7:9].numpy())
            assert np.array_equal(more, found[4])
        # A rollout goes on with it, and a session's own file is not enough.
        later = Rollout.load(model, tmp_path / "half.safetensors")
        assert later.session.lengths == [5]
        later.session.save(tmp_path / "bare.safetensors")
        with pytest.raises(ServerError, match="lacks the decoder's state"):
            client.restore("bare")
        assert client.info()["frames"] == 9
        for other in others:
            other.close()


def model_bytes(rollout: Rollout, frames: int) -> int:
    """What a memory holds that has seen so many frames."""
    session = rollout.model.session(1)
    session.write(
        torch.zeros(1, frames, *rollout.model.latent_shape), walk(1, frames)
    )
    return session.bytes()


def test_a_model_whose_chunks_are_videos_of_their_own_is_refused() -> None:
    model = tiny_world(MEMORIES["hybrid"])
    model.config = replace(model.config, restart=1)
    with pytest.raises(LociError, match=r"videos of their own, .* use `loci generate`"), serving(
        worlds(model)
    ):
        pass


@pytest.fixture(scope="module")
def server():
    with serving(worlds(tiny_world(MEMORIES["hybrid"])), frames=9, max_chunks=3) as server:
        yield server


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        ({"op": "init", "image": IMAGE[:16]}, r"a first frame \(16, 32, 3\); this model wants"),
        ({"op": "init", "image": IMAGE, "prompt": "a room"}, "reads no sentences"),
        ({"op": "init", "image": IMAGE, "pose": np.zeros((4, 4))}, "is no rigid motion"),
        ({"op": "step"}, "a step by nothing; give one of poses, motion, keys"),
        ({"op": "step", "keys": "w", "motion": np.eye(4)[None]}, "give one of"),
        ({"op": "step", "keys": "jump"}, "unknown key 'u'"),
        ({"op": "step", "keys": "ww"}, "holds a key twice"),
        ({"op": "step", "keys": "w*4 s"}, "those that are held"),
        ({"op": "step", "keys": 3}, "those that are held"),
        ({"op": "step", "keys": "w", "chunks": 4}, "give a whole number from 0 to 3"),
        ({"op": "step", "keys": "w", "chunks": 0}, "0 frames are no whole number of chunks"),
        ({"op": "step", "motion": np.eye(4)[None]}, "1 frames are no whole number of chunks of 2"),
        ({"op": "step", "poses": np.stack([np.eye(4)] * 8)}, "ask for 3 at most"),
        ({"op": "infer"}, "no request 'infer'"),
        ({"state": np.zeros(3)}, "a request without 'op'"),
    ],
)
def test_a_bad_request_is_one_line_and_the_world_stays(server, ask, words) -> None:
    with connect(server) as client:
        client.init(IMAGE)
        with pytest.raises(ServerError, match=words) as caught:
            client._ask(ask)
        assert "\n" not in str(caught.value)
        assert client.info()["frames"] == 1
        assert [len(frames) for frames in client.step(keys="w", chunks=2)] == [2, 2]


def test_a_world_has_to_begin_and_ends_where_its_slot_does(server) -> None:
    with connect(server) as client:
        with pytest.raises(ServerError, match="has not begun; give its first frame"):
            list(client.step(keys="w"))
        client.init(IMAGE)
        list(client.step(keys="w", chunks=3))
        with pytest.raises(ServerError, match="has seen 7 frames and its slot holds 9"):
            list(client.step(keys="w", chunks=2))
        list(client.step(keys="w", chunks=1))


def test_a_memory_that_asks_for_depth_is_given_some() -> None:
    model = tiny_world(Recollecting(depth=True))
    with serving(worlds(model)) as server, connect(server) as client:
        assert client.metadata["wants"] == ["depth"]
        with pytest.raises(ServerError, match="asks for the depth of the first frame"):
            client.init(IMAGE)
        with pytest.raises(ServerError, match="depth is in metres"):
            client.init(IMAGE, depth=np.full((32, 32), -1.0))
        near, far = (
            [client.init(IMAGE, depth=np.full((32, 32), metres)), *client.step(keys="w")][-1]
            for metres in (0.5, 50.0)
        )
        assert not np.array_equal(near, far)


def test_what_a_pool_sets_aside_is_its_budget(tmp_path) -> None:
    model = tiny_world(MEMORIES["hybrid"])
    each = allocated(model.session(1, 20))
    options = replace(OPTIONS, slots=9, frames=20, memory=3.5 * each / 1e9)
    assert slots(options, lambda batch: model.session(batch, 20)) == 3
    pool = Pool(model.session(3, 20), tmp_path)
    assert allocated(pool.memory) <= 3.5 * each
    assert allocated(model.session(1, 200)) > 3 * each
