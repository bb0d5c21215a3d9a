"""A small convolutional autoencoder of single images, made for the rooms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loci.models.codecs.base import Codec, CodecConfig, to_float

# Images that pass through a convolution together. One alone takes another kernel, whose results
# differ in the sixth digit, so that a stream would not be what it is in one shot; from two on they
# are the same to the last bit (tested).
IMAGES_AT_ONCE = 8
FEWEST = 2
# Share of each training batch in the running statistics of the image codec's latents.
MOMENTUM = 0.01


@dataclass(frozen=True, kw_only=True)
class ImageCodecConfig(CodecConfig, name="image"):
    """A small autoencoder of single images (ours): 8x8 pixels become one latent pixel.

    channels: of the latent. width: channels of the convolutions at 1/8 and 1/4 of the image's
    resolution; half of it at 1/2. blocks: residual blocks at each resolution.
    """

    channels: int = 8
    width: int = 48
    blocks: int = 1

    def build(self) -> ImageCodec:
        return ImageCodec(self)


class Residual(nn.Module):
    """x + conv(silu(conv(x))), the identity at birth, without normalisation."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.silu(self.inner(x)))


class ImageCodec(Codec):
    """Space to depth, residual convolutions, and the mirror of it (ours).

    Latents are standardised as by batch normalisation without scale and shift: `forward`, in
    training mode, uses the batch's statistics (so that noise on the latents has a known size, which
    the encoder cannot escape by growing) and averages them into the buffers `mean` and `variance`
    (C,); everything else uses the buffers.
    """

    config: ImageCodecConfig
    stride: ClassVar[int] = 8
    images_per_frame: ClassVar[int] = 1

    def __init__(self, config: ImageCodecConfig):
        super().__init__(config)
        self.channels = config.channels
        wide, half = config.width, config.width // 2

        def blocks(width: int) -> list[nn.Module]:
            return [Residual(width) for _ in range(config.blocks)]

        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, wide, 3, padding=1),
            *blocks(wide),
            nn.Conv2d(wide, wide, 2, stride=2),
            *blocks(wide),
            nn.Conv2d(wide, config.channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.channels, wide, 3, padding=1),
            *blocks(wide),
            nn.ConvTranspose2d(wide, wide, 2, stride=2),
            *blocks(wide),
            nn.ConvTranspose2d(wide, half, 2, stride=2),
            *blocks(half),
            nn.Conv2d(half, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("variance", torch.ones(config.channels))

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] rebuilt from their latents plus `noise` (N, C, h, w)."""
        latents = self._standardise(self._raw(images), batch_statistics=self.training)
        return self.decode_images(latents if noise is None else latents + noise)

    def encode_images(self, images: Tensor) -> Tensor:
        """Latents (N, C, h, w) of images (N, 3, H, W) in [-1, 1]; differentiable."""
        return self._standardise(self._raw(images), batch_statistics=False)

    def decode_images(self, latents: Tensor) -> Tensor:
        """Images (N, 3, H, W), not clipped, of latents (N, C, h, w); differentiable."""
        return self.decoder(latents.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def push(self, state: Any, video: Tensor) -> tuple[Tensor, Any]:
        """As `Codec.push`, an image at a time: the state carries nothing."""
        self._check_video(video)
        latents = _in_groups(
            lambda images: self.encode_images(to_float(images).permute(0, 3, 1, 2)),
            video.flatten(0, 1),
        )
        return latents.contiguous().unflatten(0, video.shape[:2]), ()

    def pull(self, state: Any, latents: Tensor) -> tuple[Tensor, Any]:
        """As `Codec.pull`, an image at a time: the state carries nothing."""
        self._check_latents(latents)
        images = _in_groups(self.decode_images, latents.flatten(0, 1)).clamp(-1.0, 1.0)
        return images.permute(0, 2, 3, 1).unflatten(0, latents.shape[:2]), ()

    def _raw(self, images: Tensor) -> Tensor:
        # Pictures with their channels last are up to four times faster at 8x8 on a CPU. Weights
        # stay contiguous, as sharded training wants them.
        return self.encoder(images.contiguous(memory_format=torch.channels_last))

    def _standardise(self, raw: Tensor, batch_statistics: bool) -> Tensor:
        return F.batch_norm(
            raw, self.mean, self.variance, training=batch_statistics, momentum=MOMENTUM
        )


def _in_groups(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """`function` of groups of IMAGES_AT_ONCE images, joined; zeros fill up a last one of fewer than
    FEWEST."""
    groups = list(images.split(IMAGES_AT_ONCE))
    count, missing = len(images), FEWEST - len(groups[-1])
    if missing > 0:
        groups[-1] = torch.cat([groups[-1], images.new_zeros(missing, *images.shape[1:])])
    return torch.cat([function(group) for group in groups])[:count]
