"""Where pictures become latents: on the device that a training is to run on, if it has one.

A codec belongs to a model that is still on the CPU when its data are made. A VAE of a video model
encodes a hundred times as fast on a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from loci.models.codecs import Codec

_DEVICE: ContextVar[torch.device | None] = ContextVar("device", default=None)


@contextlib.contextmanager
def encoding_on(device: torch.device) -> Iterator[None]:
    """Inside, `lent` codecs are on this device."""
    before = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(before)


@contextlib.contextmanager
def lent(codec: Codec) -> Iterator[None]:
    """The codec is on the device of `encoding_on`, and afterwards where it was."""
    home = _place(codec)
    codec.to(_DEVICE.get() or home)
    try:
        yield
    finally:
        codec.to(home)


def encode(codec: Codec, video: Tensor) -> Tensor:
    """Latents (B, T', C, h, w) of a video (B, T, H, W, 3) uint8, in half precision on the CPU."""
    with torch.no_grad():
        return codec.encode(video.to(_place(codec))).half().cpu()


def _place(codec: Codec) -> torch.device:
    """Where a codec is; one without weights works anywhere."""
    tensor = next(codec.parameters(), None)
    if tensor is None:
        tensor = next(codec.buffers(), torch.zeros(()))
    return tensor.device
