"""The pixels as they are, in the shape of a latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from loci.errors import LociError
from loci.models.codecs.base import Codec, CodecConfig, to_float


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
