"""Codecs: images to latent frames and back, behind one interface.

A new one is a file beside these and a line here: with it `CodecConfig.from_dict` knows its name.
"""

from loci.models.codecs.base import Codec, CodecConfig, to_float, to_uint8
from loci.models.codecs.image import ImageCodec, ImageCodecConfig
from loci.models.codecs.pixels import PixelCodec, PixelCodecConfig
from loci.models.codecs.wan import WanCodec, WanCodecConfig

__all__ = [
    "Codec", "CodecConfig", "ImageCodec", "ImageCodecConfig", "PixelCodec", "PixelCodecConfig",
    "WanCodec", "WanCodecConfig", "to_float", "to_uint8",
]
