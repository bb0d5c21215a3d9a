"""Codecs: images to latent frames and back, behind one interface.

Three codecs share it: a small convolutional autoencoder of single images, made for the rooms; the
pixels as they are; and the Wan video VAE (`loci.models.codecs.wan`), which also compresses time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loci.config import Config
from loci.errors import LociError
from loci.geometry import Camera
from loci.module import Module

# Images that pass through a convolution together. One alone takes another kernel, whose results
# differ in the sixth digit, so that a stream would not be what it is in one shot; from two on they
# are the same to the last bit (tested).
IMAGES_AT_ONCE = 8
FEWEST = 2
# Share of each training batch in the running statistics of the image codec's latents.
MOMENTUM = 0.01


@dataclass(frozen=True, kw_only=True)
class CodecConfig(Config, family=True):
    """Base of the codec configurations; `build()` makes the codec."""

    def build(self) -> Codec:
        raise NotImplementedError


class Codec(Module):
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
        if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[-1] != 3:
            raise LociError(
                f"the codec wants video (B, T, H, W, 3) uint8, got {tuple(video.shape)} "
                f"{str(video.dtype).removeprefix('torch.')}; convert it first"
            )
        self.latent_shape(Camera(height=video.shape[2], width=video.shape[3]))

    def _check_latents(self, latents: Tensor) -> None:
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


@dataclass(frozen=True, kw_only=True)
class PixelCodecConfig(CodecConfig, name="pixels"):
    """No compression: 8x8 pixels, standardised, become the 192 channels of a latent pixel (ours).

    For models that look at small images and need not show any. mean, std: of the pixels, in
    [-1, 1].
    """

    mean: float = 0.0
    std: float = 0.5

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise LociError(f"a deviation of {self.std} standardises nothing; use more than 0")

    def build(self) -> PixelCodec:
        return PixelCodec(self)


@dataclass(frozen=True, kw_only=True)
class WanCodecConfig(CodecConfig, name="wan"):
    """The Wan video VAE, in the settings of diffusers' AutoencoderKLWan and by their names.

    The defaults are Wan 2.1 (16 channels, 8x8 pixels and 4 images a latent pixel). Wan 2.2 TI2V has
    `is_residual`, `patch_size` 2, 48 channels and 16x16 pixels: take its settings from its folder.
    Needs the extra `loci-memory[wan]`.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    dropout: float = 0.0
    latents_mean: tuple[float, ...] = (
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    )
    latents_std: tuple[float, ...] = (
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    )
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    scale_factor_temporal: int = 4
    scale_factor_spatial: int = 8

    def build(self) -> Codec:
        # Imported here, because diffusers is an extra and takes seconds to import.
        from loci.models.codecs.wan import WanCodec

        return WanCodec(self)


class Residual(Module):
    """x + conv(silu(conv(x))), the identity at birth, without normalisation."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.silu(self.inner(x)))


class PixelCodec(Codec):
    """Space to depth and back; exact up to rounding."""

    config: PixelCodecConfig
    channels: int = 192
    stride: ClassVar[int] = 8
    images_per_frame: ClassVar[int] = 1

    def push(self, state: Any, video: Tensor) -> tuple[Tensor, Any]:
        """As `Codec.push`, an image at a time: the state carries nothing."""
        self._check_video(video)
        images = (to_float(video) - self.config.mean) / self.config.std
        images = images.flatten(0, 1).permute(0, 3, 1, 2)
        latents = F.pixel_unshuffle(images, self.stride)
        return latents.unflatten(0, video.shape[:2]), ()

    def pull(self, state: Any, latents: Tensor) -> tuple[Tensor, Any]:
        """As `Codec.pull`, an image at a time: the state carries nothing."""
        self._check_latents(latents)
        images = F.pixel_shuffle(latents.flatten(0, 1), self.stride)
        images = (images * self.config.std + self.config.mean).clamp(-1.0, 1.0)
        return images.permute(0, 2, 3, 1).unflatten(0, latents.shape[:2]), ()


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
