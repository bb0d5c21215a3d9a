"""A world model goes on from what its memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from loci.data.truth import Truth
from loci.errors import LociError, did_you_mean
from loci.models.world import WorldModel
from loci.seeds import chunk_noise, seed_for

# Cases that go together: no more than a thread's share, since a part for each thread is faster
# than all threads in one operation (see `loci.training.microbatches`).
BATCH = 16
MEMORIES = ("true", "empty", "shuffled", "wrong")


def batches(truths: Sequence[Truth]) -> Iterator[list[int]]:
    """Indices of cases that can go together: equal lengths, at most `BATCH` of them."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, truth in enumerate(truths):
        groups.setdefault((len(truth.rgb), truth.observed), []).append(index)
    for members in groups.values():
        for start in range(0, len(members), BATCH):
            yield members[start : start + BATCH]


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def pool(device: torch.device) -> ThreadPoolExecutor:
    """Threads that share work: on a CPU each of them computes alone, elsewhere there is one."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


@torch.inference_mode()
def continue_from(
    model: WorldModel, frames: np.ndarray, poses: np.ndarray, targets: np.ndarray,
    keys: Sequence[str], study_seed: int, first_chunk: int = 0,
) -> np.ndarray:
    """Write frames (B, M, H, W, 3) at poses (B, M, 4, 4), then generate at targets (B, N, 4, 4).

    Chunk by chunk; each finished chunk is written as if it had been seen. `keys` name the cases
    whose noise is used, from chunk number `first_chunk` on. Returns uint8 (B, N, H, W, 3).
    Raises LociError where N is no whole number of chunks.
    """
    chunk, steps = model.config.chunk, model.config.steps
    if targets.shape[1] % chunk:
        raise LociError(
            f"{targets.shape[1]} frames are no whole number of chunks of {chunk}; change the path"
        )
    device, session = device_of(model), model.session(len(keys))
    video = torch.from_numpy(np.ascontiguousarray(frames)).to(device)
    session.write(model.codec.encode(video), torch.from_numpy(poses))
    shape = (chunk, *model.latent_shape)
    made = []
    for number in range(targets.shape[1] // chunk):
        where = torch.from_numpy(targets[:, number * chunk : (number + 1) * chunk])
        noise = [chunk_noise(study_seed, key, first_chunk + number, shape) for key in keys]
        latents = session.generate(where, torch.stack(noise).to(device), steps)
        session.write(latents, where)
        made.append(latents)
    return model.codec.decode(torch.cat(made, dim=1)).cpu().numpy()


def rollout(
    model: WorldModel, truths: Sequence[Truth], study_seed: int, memory: str = "true",
    advance: Callable[[int], None] = lambda cases: None,
) -> list[np.ndarray]:
    """Each case's video (T, H, W, 3): the given frames as they are, then what the model makes.

    memory: "true" writes the given frames; "empty" only the last of them; "shuffled" the frames
    at each other's poses; "wrong" those of another room at the same poses. The last true frame
    comes last in all of them, so that the continuation starts from the same picture. `advance`
    hears how many cases are done.
    """
    if memory not in MEMORIES:
        raise LociError(f"unknown memory '{memory}'{did_you_mean(memory, MEMORIES)}")
    videos: list[np.ndarray] = [np.empty(0)] * len(truths)
    work = [
        (members, _given([truths[i] for i in members], memory, study_seed))
        for members in batches(truths)
    ]

    def one(members: list[int], frames: np.ndarray) -> np.ndarray:
        given = [truths[i] for i in members]
        poses, observed = np.stack([t.poses for t in given]), given[0].observed
        return continue_from(
            model, frames, poses[:, observed - frames.shape[1] : observed], poses[:, observed:],
            [t.case.key for t in given], study_seed, (observed - 1) // model.config.chunk,
        )

    with pool(device_of(model)) as threads:
        for (members, _), made in zip(
            work, threads.map(lambda item: one(*item), work), strict=True
        ):
            for row, index in enumerate(members):
                truth = truths[index]
                videos[index] = np.concatenate([truth.rgb[: truth.observed], made[row]])
            advance(len(members))
    return videos


def _given(truths: Sequence[Truth], memory: str, seed: int) -> np.ndarray:
    """The frames (B, M, H, W, 3) that are written, those of the last M observed poses."""
    observed = truths[0].observed
    frames = np.stack([t.rgb[:observed] for t in truths])
    if memory == "empty":
        return frames[:, -1:]
    if memory == "shuffled":
        for row, truth in enumerate(truths):
            draw = np.random.default_rng(seed_for(seed, "shuffled", truth.case.key))
            order = draw.permutation(observed - 1)
            frames[row, :-1] = frames[row, order]
    if memory == "wrong":
        frames[:, :-1] = np.stack([t.other_room for t in truths])
    return frames
