"""How long acts take, and what they make: timings that do not suffer from a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
