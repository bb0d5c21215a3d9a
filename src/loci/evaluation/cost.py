"""What a row holds after 40 frames, and how long a chunk takes then."""

from __future__ import annotations

import statistics
import time

import torch

from loci.evaluation.cases import chunk_noise
from loci.evaluation.rollouts import World
from loci.worlds.paths import make_path
from loci.worlds.rooms import sample_room

FRAMES = 40
LATER = (400, 6400)
REPEATS = 5


@torch.inference_mode()
def hold(model: World) -> tuple[dict[str, int], float]:
    """({frames, tokens, bytes, full_history_tokens, tokens_at_400, tokens_at_6400} of one stream,
    milliseconds a chunk).

    40 frames of a full turn are written one chunk at a time; the milliseconds are the median of
    five generated chunks (batch 1, after one to warm up) and depend on the machine. `tokens` and
    `bytes` are what the stream's memory holds, `full_history_tokens` every token of every frame.
    Later on, what the row's plan says that it will hold.
    """
    room = sample_room(0, "train")
    chunk, device = model.config.chunk, next(iter(model.parameters())).device
    turn = torch.from_numpy(make_path("loop360", room.start, 0, room).poses)
    session = model.session(1)
    for start in range(0, FRAMES, chunk):
        poses = turn[None, start : min(start + chunk, FRAMES)]
        shape = (poses.shape[1], *model.latent_shape)
        session.write(chunk_noise(0, "cost", start, shape)[None].to(device), poses)
    held = {
        "frames": FRAMES,
        "tokens": int(session.tokens()),
        "bytes": int(session.bytes()),
        "full_history_tokens": FRAMES * model.tokens,
    }
    for frames in LATER:
        held[f"tokens_at_{frames}"] = model.config.memory.tokens_held(frames, model.tokens)
    poses = turn[None, FRAMES : FRAMES + chunk]
    noise = chunk_noise(0, "cost", FRAMES, (chunk, *model.latent_shape))[None].to(device)
    times = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        session.generate(poses, noise, model.config.steps).cpu()
        times.append(1000 * (time.perf_counter() - began))
    return held, statistics.median(times[1:])
