"""A device that is not the host, without a GPU: torch's meta device, watched.

It computes shapes alone. Within `apart()` it refuses what a GPU would, operations on tensors of
both sides, and what a GPU would wait for, questions for a value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

AWAY = torch.device("meta")
COPIES = ("aten._to_copy.", "aten.copy_.", "aten.to.")


class _Apart(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        # A number from the host meets any tensor.
        sides = {x.device for x in given if x.dim() or x.device == AWAY}
        if len(sides) > 1 and not str(func).startswith(COPIES):
            raise RuntimeError(f"{func} of {[(x.device.type, tuple(x.shape)) for x in given]}")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Input is checked for NaN, which may take a wait: that is let through. The meta device has no
    autocast."""
    finite, autocast = torch.isfinite, torch.autocast

    def isfinite(x: Tensor) -> Tensor:
        return finite(torch.zeros(()) if x.device == AWAY else x)

    def without(kind: str, *rest, **more):
        return contextlib.nullcontext() if kind == AWAY.type else autocast(kind, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "isfinite", isfinite)
        patch.setattr(torch, "autocast", without)
        with _Apart():
            yield


def learn(task) -> None:
    """A step's gradient, away from the host where its batch is made."""
    task.module.to(AWAY)
    batch = {
        name: value.to(AWAY) if isinstance(value, Tensor) else value
        for name, value in task.batch(0).items()
    }
    with apart():
        losses, metrics = task.loss(batch)
        losses.mean().backward()
    assert {value.device for value in metrics.values()} == {AWAY}
    grads = [p.grad for p in task.module.parameters() if p.grad is not None]
    assert grads
    assert {grad.device for grad in grads} == {AWAY}
