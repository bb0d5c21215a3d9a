"""Stored tensors into a model, one at a time.

A model that was built on the meta device has no memory yet: each of its tensors gets it when its
turn comes. So at no time is there more than the model and one tensor. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn


@torch.no_grad()
def fill(
    model: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu", fp32: Sequence[str] = (),
) -> None:
    """Give `model` the tensors, which must be its own by name and shape (`StoredTensors.check`).

    A tensor on the meta device gets memory on `device`: floats in `dtype` (None: as they are
    stored), those whose names match a pattern in `fp32` in float32. Any other is copied into, in
    its own dtype and place.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    for name in tensors:
        target = own[name]
        if not target.is_meta:
            target.copy_(tensors[name])
            continue
        source = tensors[name]
        kind = source.dtype
        if source.is_floating_point():
            precise = any(fnmatchcase(name, pattern) for pattern in fp32)
            kind = torch.float32 if precise else dtype or kind
        # Memory of its own: the source may be a file that is mapped.
        value = torch.empty(source.shape, dtype=kind, device=device).copy_(source)
        del source
        place, _, leaf = name.rpartition(".")
        if isinstance(target, nn.Parameter):
            value = nn.Parameter(value, requires_grad=target.requires_grad)
        setattr(model.get_submodule(place), leaf, value)


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of all that a model stores, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
