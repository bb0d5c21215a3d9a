"""The contract of codecs: images to latent frames and back, in one shot and as a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loci.config import Config
from loci.errors import LociError, check_type
from loci.errors.arguments import TENSOR
from loci.geometry import Camera


@dataclass(frozen=True, kw_only=True)
class CodecConfig(Config, family=True):
    """Base of the codec configurations; `build()` makes the codec."""

    def build(self) -> Codec:
        raise NotImplementedError


class Codec(nn.Module):
    """Video in, normalised latent frames out, and back.

    Latents have about zero mean and unit variance per channel, float32, (B, T', C, h, w). One
    latent frame stands for `images_per_frame` images, except the first, which stands for one:
    T images make T' = 1 + (T - 1) / images_per_frame latent frames.
    """

    channels: int
    stride: int
    images_per_frame: int

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config

    def latent_shape(self, camera: Camera) -> tuple[int, int, int]:
        """(C, h, w) of one latent frame. Raises LociError if the codec cannot divide the image."""
        if camera.height % self.stride or camera.width % self.stride:
            raise LociError(
                f"the codec cannot divide {camera.height}x{camera.width} images; "
                f"choose a height and width that are multiples of {self.stride}"
            )
        return self.channels, camera.height // self.stride, camera.width // self.stride

    def encode(self, video: Tensor) -> Tensor:
        """Latents (B, T', C, h, w) of a video (B, T, H, W, 3) uint8.

        Raises LociError for another layout, for a size that the stride does not divide, and for
        trailing images that would fill no latent frame.
        """
        return self.push(None, video)[0]

    def push(self, state: Any, video: Tensor) -> tuple[Tensor, Any]:
        """Encode the images (B, T, H, W, 3) uint8 that follow those already pushed.

        `state` is None at the start, then what the push before returned; it is never changed in
        place, so that an old one can be kept and continued. Returns the new latents
        (B, T', C, h, w) and the new state: the pushes of a video, joined, are its `encode`.
        """
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Video (B, T, H, W, 3) uint8 of latents (B, T', C, h, w)."""
        with torch.no_grad():
            return to_uint8(self.decode_float(latents))

    def decode_float(self, latents: Tensor) -> Tensor:
        """Video (B, T, H, W, 3) float in [-1, 1] of latents (B, T', C, h, w); differentiable."""
        return self.pull(None, latents)[0]

    def pull(self, state: Any, latents: Tensor) -> tuple[Tensor, Any]:
        """Decode the latents that follow those already pulled: the streaming `decode_float`.

        `state` is as in `push`. Returns the new images (B, T, H, W, 3) float in [-1, 1] and the
        new state.
        """
        raise NotImplementedError

    def _check_video(self, video: Tensor) -> None:
        check_type(video, Tensor, "video", TENSOR)
        if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[-1] != 3:
            raise LociError(
                f"the codec wants video (B, T, H, W, 3) uint8, got {tuple(video.shape)} "
                f"{str(video.dtype).removeprefix('torch.')}; convert it first"
            )
        self.latent_shape(Camera(height=video.shape[2], width=video.shape[3]))

    def _check_latents(self, latents: Tensor) -> None:
        check_type(latents, Tensor, "latents", TENSOR)
        if latents.ndim != 5 or latents.shape[2] != self.channels:
            raise LociError(
                f"the codec wants latents (B, T, {self.channels}, h, w), got "
                f"{tuple(latents.shape)}; they come from another codec or layout"
            )


def to_float(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1], clipped, to uint8, rounded to the nearest."""
    return images.float().clamp(-1.0, 1.0).add(1.0).mul_(127.5).round_().to(torch.uint8)
