"""What memory costs: tokens and bytes held, milliseconds to write a frame and to make a chunk.

One measuring code for the study, which asks it about trained rows, and for `loci bench`, which
draws new ones.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from loci.study.rooms.cases import chunk_noise
from loci.study.rooms.rollouts import World, WorldSession
from loci.worlds.rooms.paths import make_path
from loci.worlds.rooms.room import sample_room

FRAMES = 40
WRITTEN, LATER = 400, (400, 6400)
REPEATS = 5
# Frames that are written together where nothing is timed: about the fastest on a CPU.
BLOCK = 40


class Stream:
    """One stream of a model, along a full turn of a room that is gone through again and again.

    The latents are noise, the same in every block: what was seen makes no difference to the cost.
    """

    def __init__(self, model: World, session: WorldSession):
        self.model, self.session, self.frames = model, session, 0
        self.device = next(iter(model.parameters())).device
        room = sample_room(0, "train")
        self.turn = torch.from_numpy(make_path("loop360", room.start, 0, room).poses)
        shape = (max(BLOCK, model.config.chunk), *model.latent_shape)
        self.noise = chunk_noise(0, "cost", 0, shape)[None].to(self.device)

    def write(self, count: int = 1) -> None:
        """Commit the next `count` frames, together: no more than a block."""
        self.session.write(self.noise[:, :count], self.poses(count))
        self.frames += count

    def advance(self, frames: int) -> None:
        """Go on until `frames` frames are written."""
        while self.frames < frames:
            self.write(min(BLOCK, frames - self.frames))

    def generate(self) -> Tensor:
        """The chunk that comes next, with all its steps; nothing is committed."""
        chunk, steps = self.model.config.chunk, self.model.config.steps
        return self.session.generate(self.poses(chunk), self.noise[:, :chunk], steps)

    def poses(self, count: int) -> Tensor:
        """Of the next `count` frames, (1, count, 4, 4)."""
        return self.turn[(self.frames + torch.arange(count)) % len(self.turn)][None]


def milliseconds(act: Callable[[], object], device: torch.device) -> float:
    """What `act` takes, until the device has finished with it: on a GPU by its own clock."""
    if device.type == "cuda":
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        began.record()
        act()
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended)
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def graphed(act: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`act` recorded as one CUDA graph, to be replayed without a launch for each kernel; on a CPU
    `act` itself. It must copy nothing from the host and ask nothing back."""
    if device.type != "cuda":
        return act
    aside, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    aside.wait_stream(torch.cuda.current_stream(device))
    # What a first call sets up cannot be recorded.
    with torch.cuda.stream(aside):
        for _ in range(3):
            act()
    torch.cuda.current_stream(device).wait_stream(aside)
    with torch.cuda.graph(graph):
        act()
    return graph.replay


def allocated(act: Callable[[], object]) -> int:
    """Bytes of the tensors that `act` makes: what its operations return, unless it is a view or was
    overwritten in place. What a kernel takes for itself and gives back is not seen."""
    made = 0

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal made
            results = func(*args, **(kwargs or {}))
            known = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            new = [x for x in tree_leaves(results) if isinstance(x, Tensor)]
            made += sum(x.untyped_storage().nbytes() for x in new if _storage(x) not in known)
            return results

    with Watching():
        act()
    return made


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def in_turns(
    acts: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    warm: bool = True,
    done: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Milliseconds of every act, `repeats` times, in turns: what slows the machine down for a while
    slows all of them. warm: a turn that does not count comes first; `done` hears of every act."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    for turn in range(repeats + warm):
        for name, act in acts.items():
            took = milliseconds(act, device)
            if turn >= warm:
                times[name].append(took)
            done()
    return times


@torch.inference_mode()
def hold(models: Mapping[str, World]) -> tuple[dict[str, dict[str, int]], dict[str, float]]:
    """row -> {frames, tokens, bytes, full_history_tokens, bytes_at_400, tokens_at_400,
    tokens_at_6400} of one stream of each model, and row -> milliseconds a chunk.

    tokens and bytes: what its memory holds after 40 frames, full_history_tokens: every token of
    every frame. The milliseconds are the median of five chunks generated then, rows in turns (after
    one to warm up), and depend on the machine. For bytes_at_400 that many frames are written; the
    tokens held later on are those that the row's plan promises.
    """
    streams = {name: Stream(model, model.session(1)) for name, model in models.items()}
    held: dict[str, dict[str, int]] = {}
    for name, stream in streams.items():
        stream.advance(FRAMES)
        held[name] = {
            "frames": FRAMES,
            "tokens": int(stream.session.tokens()),
            "bytes": int(stream.session.bytes()),
            "full_history_tokens": FRAMES * stream.model.tokens,
        }
    device = next(iter(streams.values())).device
    times = in_turns({name: s.generate for name, s in streams.items()}, REPEATS, device)
    for name, model in models.items():
        stream = streams.pop(name)  # long memories go one by one
        stream.advance(WRITTEN)
        held[name][f"bytes_at_{WRITTEN}"] = int(stream.session.bytes())
        for frames in LATER:
            count = model.config.memory.tokens_held(frames, model.tokens)
            held[name][f"tokens_at_{frames}"] = count
    return held, {name: statistics.median(found) for name, found in times.items()}
