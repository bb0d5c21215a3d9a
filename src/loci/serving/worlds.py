"""A world model at work: a first frame and a prompt in, frames out, chunk by chunk.

All worlds that wait generate their next chunk together; one that wants several takes its turn for
each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loci.errors import LociError
from loci.geometry import checked_poses
from loci.geometry.keyboard import KEYS, key_frames, keyboard_path
from loci.models.codecs.base import to_uint8
from loci.models.told import told
from loci.models.world import KIND, WorldModel
from loci.seeds import normal
from loci.serving.observations import picture
from loci.serving.options import ServeOptions
from loci.serving.pool import Pool, Stream, tensor_bytes
from loci.serving.protocol import Message, array, text, whole
from loci.serving.service import Answer, Call, Service, common, slots
from loci.streaming.session import Session

WAYS = ("poses", "motion", "keys")


class WorldService(Service):
    """Worlds of one model. "init" begins one with a picture, "step" goes on.

    LociError for a model whose chunks are videos of their own (`WorldConfig.restart`).
    """

    ops = ("init", "step")

    def __init__(self, model: WorldModel, options: ServeOptions, folder: Path, name: str):
        super().__init__(options, name)
        if model.config.restart:
            raise LociError(
                f"the chunks of {name} are videos of their own, which are not served; use "
                "`loci generate`"
            )
        if options.temperature is not None:
            raise LociError("a world model has no temperature; leave out --temperature")
        self.model = model
        # A video's decoder goes on from the frames before: each session has its own.
        self.decodes = model.codec.images_per_frame > 1
        count = slots(
            options, lambda batch: Session(model, batch, options.frames), self._decoder_bytes()
        )
        self.session = Session(model, count, options.frames)
        self.pool = Pool(self.session, folder, decodes=self.decodes)

    def metadata(self) -> Answer:
        config = self.model.config
        return common(self, KIND, config) | {
            "height": config.camera.height, "width": config.camera.width, "chunk": config.chunk,
            "images_per_frame": self.model.codec.images_per_frame,
            "wants": sorted(config.memory.wants), "keys": "".join(KEYS),
            "reads_instructions": config.text is not None,
        }

    @property
    def limited(self) -> bool:
        # What retrieves keeps all poses.
        return super().limited or bool(self.model.config.memory.retrieves)

    def read(self, stream: Stream, op: str, message: Message) -> list[Call]:
        return self._init(stream, message) if op == "init" else self._steps(stream, message)

    def _init(self, stream: Stream, message: Message) -> list[Call]:
        camera, memory = self.model.config.camera, self.model.config.memory
        image = picture(message.get("image"), "the first frame")
        if image.shape != (1, camera.height, camera.width, 3):
            raise LociError(
                f"a first frame {image.shape[1:]}; this model wants ({camera.height}, "
                f"{camera.width}, 3)"
            )
        depth = array(message, "depth", (camera.height, camera.width))
        if memory.wants and depth is None:
            raise LociError("this memory asks for the depth of the first frame; give 'depth'")
        if depth is not None and (depth < 0).any():
            raise LociError("depth is in metres, 0 where it is unknown; give 0 or more")
        pose, prompt = array(message, "pose", (4, 4)), text(message, "prompt", "instruction")
        where = torch.eye(4, dtype=torch.float64) if pose is None else _poses(pose[None])[0]
        if prompt is not None and not self.pool.reads:
            raise LociError("this model reads no sentences; leave out 'prompt'")
        deep = None if depth is None else torch.from_numpy(depth.astype(np.float32))
        return [Call(stream, op="init", key="init", given=(image, deep, where, prompt))]

    def _steps(self, stream: Stream, message: Message) -> list[Call]:
        if not stream.frames:
            raise LociError("a world that has not begun; give its first frame by 'init'")
        given = [way for way in WAYS if message.get(way) is not None]
        if len(given) != 1:
            raise LociError(f"a step by {given or 'nothing'}; give one of {', '.join(WAYS)}")
        span = self.model.config.chunk
        if given == ["poses"]:
            found = array(message, "poses", ("N", 4, 4))
            assert found is not None
            where = _poses(found)
        elif given == ["motion"]:
            found = array(message, "motion", ("N", 4, 4))
            assert found is not None
            where = _along(stream.pose, _poses(found))
        else:
            chunks = whole(message, "chunks", 1, self.options.max_chunks)
            where = _held(stream.pose, message["keys"], chunks * span)
        if len(where) % span or not len(where):
            raise LociError(f"{len(where)} frames are no whole number of chunks of {span}")
        if len(where) > span * self.options.max_chunks:
            raise LociError(
                f"{len(where) // span} chunks at once; ask for {self.options.max_chunks} at most"
            )
        self.check_room(stream, len(where))
        chunks = where.split(span)
        return [
            Call(stream, "step", "step", (part, number == len(chunks)))
            for number, part in enumerate(chunks, start=1)
        ]

    @torch.no_grad()
    def run(self, calls: Sequence[Call]) -> None:
        calls = self.held(calls)
        if calls and calls[0].op == "init":
            for call in calls:
                self.together([call], self._begin)
        else:
            self.together(calls, self._step)

    def _begin(self, calls: Sequence[Call]) -> None:
        (call,) = calls
        image, depth, pose, prompt = call.given
        began, stream = time.perf_counter(), call.stream
        if prompt is not None:
            self.pool.tell(stream, prompt)
        self.pool.reset(stream)
        first = torch.from_numpy(image)[None]
        latents = self.model.codec.encode(first.to(self.session.stream.device))
        extras = {} if depth is None else told(self.model, first, depth[None, None])
        self.session.write(latents, pose[None, None], self._slots(calls), **extras)
        stream.pose, stream.frames = pose, 1
        (frames,) = self._shown(calls, latents)
        call.times["write_ms"] = 1000 * (time.perf_counter() - began)
        call.answer = {"frames": frames.numpy(), "last": True}

    def _step(self, calls: Sequence[Call]) -> None:
        names, clock = self._slots(calls), [time.perf_counter()]
        poses = torch.stack([call.given[0] for call in calls])
        shape = (1, poses.shape[1], *self.model.latent_shape)
        noise = torch.cat([
            normal(shape, call.stream.seed, "rollout", *_number(call.stream)) for call in calls
        ])
        latents = self.session.generate(poses, noise, self.options.steps, names)
        clock.append(time.perf_counter())
        self.session.write(latents, poses, names)
        for call, name in zip(calls, names, strict=True):
            call.stream.made += 1
            call.stream.frames = self.session.lengths[name]
            call.stream.pose = call.given[0][-1]
        clock.append(time.perf_counter())
        frames = self._shown(calls, latents)
        clock.append(time.perf_counter())
        times = {
            name: 1000 * (end - start)
            for name, (start, end) in zip(
                ("generate_ms", "write_ms", "decode_ms"), pairwise(clock), strict=True
            )
        }
        for call, video in zip(calls, frames, strict=True):
            call.times |= times
            call.answer = {
                "frames": video.numpy(), "poses": call.given[0].numpy(), "last": call.given[1]
            }

    def _shown(self, calls: Sequence[Call], latents: Tensor) -> list[Tensor]:
        """The pictures (n, H, W, 3) uint8 of each session's new latents (B, n', C, h, w)."""
        codec = self.model.codec
        if not self.decodes:
            return list(codec.decode(latents).cpu())
        shown = []
        for call, own in zip(calls, latents.split(1), strict=True):
            # A file's is on no device yet.
            state = {name: part.to(own.device) for name, part in call.stream.decoder.items()}
            images, call.stream.decoder = codec.pull(state or None, own)
            shown.append(to_uint8(images)[0].cpu())
        return shown

    @torch.no_grad()
    def _decoder_bytes(self) -> int:
        """Of a decoder that goes on: it is tried once."""
        if not self.decodes:
            return 0
        like = self.model.gist_bank
        latents = torch.zeros(1, 2, *self.model.latent_shape, device=like.device)
        return tensor_bytes(self.model.codec.pull(None, latents)[1])

    def _slots(self, calls: Sequence[Call]) -> list[int]:
        return [call.stream.slot for call in calls if call.stream.slot is not None]


def _number(stream: Stream) -> tuple[int, ...]:
    """What the noise of the next chunk belongs to: in the first episode its number alone, as in
    `loci rollout`."""
    return (stream.episode, stream.made) if stream.episode else (stream.made,)


def _poses(values: np.ndarray) -> Tensor:
    """Rigid motions (N, 4, 4); LociError for others."""
    return checked_poses(torch.from_numpy(values.astype(np.float64))[None])[0]


def _held(pose: Tensor, keys: object, frames: int) -> Tensor:
    """Poses (N, 4, 4) of a camera while keys are held (`geometry/keyboard.py`)."""
    if not isinstance(keys, str) or len(key_frames(keys)) != 1:
        raise LociError(
            f"keys are {str(keys)[:40]!r}; give a text of those that are held, 'wl' say"
        )
    if not frames:
        return torch.zeros(0, 4, 4, dtype=torch.float64)
    return torch.from_numpy(keyboard_path(f"{keys}*{frames}", pose.numpy())[1:])


def _along(pose: Tensor, motion: Tensor) -> Tensor:
    """Poses (N, 4, 4) of a camera that moves by each of `motion` in turn."""
    found = torch.empty(len(motion), 4, 4, dtype=torch.float64)
    for number, step in enumerate(motion):
        pose = pose @ step
        found[number] = pose
    return found
