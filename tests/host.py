"""What a step asks of the host: nothing, where it is to be recorded as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

# Numbers that leave the device, tensors made of Python's numbers, and results of unknown size.
ASKING = (
    "_local_scalar_dense", "equal", "lift_fresh", "nonzero", "masked_select", "repeat_interleave"
)


def asked_of_the_host(act: Callable[[], object]) -> list[str]:
    """The operations of `act`, on a CPU, that a CUDA graph could not hold. What is made without
    naming a device would be made on the host and copied: while `act` runs, that is the meta device.
    """
    found = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name, kwargs = func._schema.name.removeprefix("aten::"), dict(kwargs or {})
            adrift = kwargs.get("device") == torch.device("meta")
            if adrift:
                kwargs["device"] = torch.device("cpu")
            given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            adrift |= any(x.is_meta for x in given)
            args, kwargs = tree_map_only(Tensor, _here, (args, kwargs))
            masks = name.startswith("index") and any(x.dtype == torch.bool for x in given)
            if adrift or masks or name in ASKING:
                found.append(name)
            return func(*args, **kwargs)

    act()  # what a first call sets up stays
    with torch.device("meta"), Watching():
        act()
    return found


def _here(x: Tensor) -> Tensor:
    return torch.zeros(x.shape, dtype=x.dtype, device="cpu") if x.is_meta else x
