"""The Wan video VAE through diffusers, streamed with caches that the caller owns.

Source: Wan (arXiv 2503.20314, section 4.1, causal feature caches); the network is diffusers'
AutoencoderKLWan. Its own `encode` clears the caches at every call and drops trailing images
silently; here a push continues where the last one stopped, and such images are refused.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loci.errors import LociError
from loci.io.extras import extra
from loci.models.codecs.base import Codec, CodecConfig, to_float

# What a cache says that has seen one frame but kept none of it, in diffusers' words. As state it
# is an empty tensor, so that state stays a plain map of tensors.
REPEAT = "Rep"
# In the released Wan 2.2 settings, but read by no version of AutoencoderKLWan.
UNUSED = ("clip_output",)

Caches = dict[str, Tensor]


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

    def build(self) -> WanCodec:
        return WanCodec(self)


class WanCodec(Codec):
    """AutoencoderKLWan behind the codec interface; latents are the posterior's mean, normalised.

    The state of `push` is the encoder's feature caches, that of `pull` the decoder's: maps from a
    convolution's number to a tensor. Neither is changed in place. Raises LociError when diffusers
    is not installed or cannot build the settings.
    """

    config: WanCodecConfig

    def __init__(self, config: WanCodecConfig):
        super().__init__(config)
        settings = {k: v for k, v in config.to_dict().items() if k != "type"}
        with extra("wan"):  # imported here: it takes seconds
            from diffusers import AutoencoderKLWan
        try:
            self.vae = AutoencoderKLWan(**settings).eval()
        except TypeError as error:
            raise LociError(
                f"this diffusers cannot build the Wan VAE ({error}); update it"
            ) from error
        except ValueError as error:
            raise LociError(f"no Wan VAE has these settings: {error}") from error
        self.patch = config.patch_size or 1
        self.channels = config.z_dim
        self.stride = self.patch * 2 ** (len(config.dim_mult) - 1)
        self.images_per_frame = 2 ** sum(config.temperal_downsample)
        self._check_scales()
        self.set_statistics()

    def set_statistics(self, device: torch.device | str | None = None) -> None:
        """Mean and standard deviation of latents, from the settings; of a codec that was built on
        the meta device they hold no numbers before."""
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.config, f"latents_{name}"), device=device)
            self.register_buffer(name, values.view(1, -1, 1, 1, 1))

    def push(self, state: Caches | None, video: Tensor) -> tuple[Tensor, Caches]:
        """As `Codec.push`: 1 + 4 n images at the start, 4 n after it.

        Raises LociError for other numbers of images: the remainder would fill no latent frame.
        """
        self._check_video(video)
        sizes = self._pieces(video.shape[1], state is None)
        images = to_float(video).permute(0, 4, 1, 2, 3).to(self.vae.dtype)
        images = _patchify(images, self.patch)
        caches = _open(state, _convolutions(self.vae.encoder))
        with torch.no_grad():
            moments = [
                # One piece at a time through the 1x1x1 convolution too: a longer one may be
                # computed in another order, and a stream would not be bit-exact any more.
                self.vae.quant_conv(self.vae.encoder(piece, feat_cache=caches, feat_idx=[0]))
                for piece in images.split(sizes, dim=2)
            ]
        latents = torch.cat(moments, dim=2)[:, : self.channels].float()
        latents = (latents - self.mean) / self.std
        return latents.transpose(1, 2).contiguous(), _close(caches)

    def pull(self, state: Caches | None, latents: Tensor) -> tuple[Tensor, Caches]:
        """As `Codec.pull`: the first latent frame gives one image, each later one 4."""
        self._check_latents(latents)
        caches = _open(state, _convolutions(self.vae.decoder))
        z = (latents.transpose(1, 2) * self.std + self.mean).to(self.vae.dtype)
        images = []
        for index, piece in enumerate(z.split(1, dim=2)):
            first = {"first_chunk": True} if state is None and index == 0 else {}
            piece = self.vae.post_quant_conv(piece)
            images.append(self.vae.decoder(piece, feat_cache=caches, feat_idx=[0], **first))
        video = _unpatchify(torch.cat(images, dim=2), self.patch).float().clamp(-1.0, 1.0)
        return video.permute(0, 2, 3, 4, 1), _close(caches)

    def _pieces(self, images: int, start: bool) -> list[int]:
        """Images of each latent frame; LociError when some are left over."""
        step, first = self.images_per_frame, 1 if start else 0
        if images < 1 or (images - first) % step:
            wanted = f"1 + {step} n at the start" if start else f"{step} n after the start"
            raise LociError(
                f"{images} images do not fill whole latent frames; push {wanted}, "
                "cut the rest or keep it for the next push"
            )
        return [1] * first + [step] * ((images - first) // step)

    def _check_scales(self) -> None:
        told = (self.config.scale_factor_temporal, self.config.scale_factor_spatial)
        if told != (self.images_per_frame, self.stride):
            raise LociError(
                f"the Wan settings say {told} images and pixels a latent pixel, their layers make "
                f"{(self.images_per_frame, self.stride)}; correct scale_factor_temporal / _spatial"
            )
        counts = {len(self.config.latents_mean), len(self.config.latents_std)}
        if counts != {self.config.z_dim}:
            raise LociError(
                f"latents_mean and latents_std have {sorted(counts)} values for z_dim "
                f"{self.config.z_dim}; give one each"
            )


def read_diffusers_config(file: str | Path) -> WanCodecConfig:
    """The settings in diffusers' config.json of an AutoencoderKLWan.

    Raises LociError for a file that cannot be read, is not JSON or describes another class.
    """
    file = Path(file)
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise LociError(f"cannot read {file} ({error}); give a diffusers VAE folder") from error
    return from_diffusers(data)


def from_diffusers(data: dict[str, Any]) -> WanCodecConfig:
    """The settings in a diffusers config map; its bookkeeping keys (`_...`) are left out.

    Raises LociError for another class than AutoencoderKLWan or an unknown setting.
    """
    name = data.get("_class_name", "AutoencoderKLWan")
    if name != "AutoencoderKLWan":
        raise LociError(
            f"these are the settings of {name}, not of AutoencoderKLWan; give the VAE's"
        )
    given = {k: v for k, v in data.items() if not k.startswith("_") and k not in UNUSED}
    defaults = {f.name: f.default for f in dataclasses.fields(WanCodecConfig)}
    # diffusers writes null for what it may choose itself.
    kept = {k: v for k, v in given.items() if v is not None or defaults.get(k) is None}
    return WanCodecConfig.from_dict({"type": "wan"} | kept)


def _convolutions(network: nn.Module) -> int:
    """How many caches a pass may need: one for each causal convolution."""
    return sum(type(module).__name__ == "WanCausalConv3d" for module in network.modules())


def _open(state: Caches | None, count: int) -> list[Tensor | str | None]:
    """diffusers' list of caches, fresh, so that what it replaces stays in `state`."""
    caches: list[Tensor | str | None] = [None] * count
    for key, value in (state or {}).items():
        caches[int(key)] = value if value.numel() else REPEAT
    return caches


def _close(caches: list[Tensor | str | None]) -> Caches:
    return {
        str(index): torch.empty(0) if isinstance(cache, str) else cache
        for index, cache in enumerate(caches)
        if cache is not None
    }


def _patchify(images: Tensor, patch: int) -> Tensor:
    """(B, 3, T, H, W) to (B, 3 p p, T, H/p, W/p), channels ordered (colour, column, row)."""
    b, c, t, h, w = images.shape
    images = images.reshape(b, c, t, h // patch, patch, w // patch, patch)
    images = images.permute(0, 1, 6, 4, 2, 3, 5)
    return images.reshape(b, c * patch * patch, t, h // patch, w // patch)


def _unpatchify(images: Tensor, patch: int) -> Tensor:
    """The inverse of `_patchify`."""
    b, c, t, h, w = images.shape
    images = images.reshape(b, c // patch**2, patch, patch, t, h, w)
    images = images.permute(0, 1, 4, 5, 3, 6, 2)
    return images.reshape(b, c // patch**2, t, h * patch, w * patch)
