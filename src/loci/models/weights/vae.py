"""Wan's video VAE, 2.1 and 2.2, in the original layout and in diffusers', and its names in both.

Source: the parameter names of the Wan repositories (`vae.py` of 2.1, `vae2_2.py` of 2.2) and of
diffusers' AutoencoderKLWan; the map is ours. Original files carry no settings: they are those of
the released VAE of the same structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from loci.errors import LociError
from loci.io.bundled import resolve_checkpoint
from loci.io.checkpoint import checkpoint_kind, load_checkpoint
from loci.models.codecs import CodecConfig, WanCodec, WanCodecConfig
from loci.models.codecs.wan import read_diffusers_config
from loci.models.weights.fill import fill, shapes_of
from loci.models.weights.layout import CONFIG, PIPELINE, Layout, is_checkpoint
from loci.models.weights.shards import StoredTensors, open_weights

FOLDER = "vae"
# A checkpoint of a codec; where the network is in it.
KIND, PLACE = "codec", "vae."
ORIGINAL_FILES = "Wan*_VAE.pth"
# diffusers' name -> the original one, below `encoder.` and `decoder.`, and inside a residual block.
_OUTER = (("quant_conv.", "conv1."), ("post_quant_conv.", "conv2."))
_SIDE = (
    ("conv_in.", "conv1."), ("norm_out.", "head.0."), ("conv_out.", "head.2."),
    ("mid_block.attentions.0.", "middle.1."),
)
_BLOCK = (
    ("norm1.", "residual.0."), ("conv1.", "residual.2."), ("norm2.", "residual.3."),
    ("conv2.", "residual.6."), ("conv_shortcut.", "shortcut."),
)
_MIDDLE = re.compile(r"mid_block\.resnets\.(\d)\.(.*)")
_FLAT = re.compile(r"down_blocks\.(\d+)\.(?!resnets|downsampler)(.*)")
_NESTED = re.compile(
    r"(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(?:down|up)samplers?(?:\.0)?)\.(.*)"
)
_NESTED_ORIGINAL = "encoder.downsamples.0.downsamples."


class VaeWeights(NamedTuple):
    """Weights of a VAE under diffusers' names, not read yet and not checked."""

    tensors: StoredTensors
    layout: Layout
    config: WanCodecConfig


def wan_vae_2_1() -> WanCodecConfig:
    """The VAE of Wan 2.1, and of 2.2 14B: 16 channels, 8x8 pixels a latent pixel."""
    return WanCodecConfig()


def wan_vae_2_2() -> WanCodecConfig:
    """The VAE of Wan 2.2 TI2V-5B: 48 channels, 16x16 pixels a latent pixel."""
    return WanCodecConfig(
        base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, in_channels=12,
        out_channels=12, patch_size=2, scale_factor_spatial=16,
        latents_mean=(
            *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557),
            *(-0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825),
            *(-0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
            *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230),
            *(-0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748),
            *(0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
        ),
        latents_std=(
            *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013),
            *(0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978),
            *(0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
            *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093),
            *(0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887),
            *(0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
        ),
    )


def to_original(name: str, config: WanCodecConfig) -> str:
    """The original name of a tensor of diffusers' VAE; one that is none of theirs stays."""
    side, _, tail = name.partition(".")
    if side not in ("encoder", "decoder"):
        return _begun(name, _OUTER)
    if found := _MIDDLE.fullmatch(tail):
        number, tail = found.groups()
        return f"{side}.middle.{2 * int(number)}.{_begun(tail, _BLOCK)}"
    if found := _FLAT.fullmatch(tail):
        number, tail = found.groups()
        return f"{side}.downsamples.{number}.{_begun(tail, _BLOCK)}"
    if found := _NESTED.fullmatch(tail):
        way, number, inner, tail = found.groups()
        # A decoder's block has one more layer; what changes the size comes behind them.
        layers = config.num_res_blocks + (way == "up")
        place = layers if inner is None else int(inner)
        if not config.is_residual:
            return f"{side}.{way}samples.{int(number) * (layers + 1) + place}." + _begun(
                tail, _BLOCK
            )
        return f"{side}.{way}samples.{number}.{way}samples.{place}.{_begun(tail, _BLOCK)}"
    return f"{side}.{_begun(tail, _SIDE)}"


def names_to_original(config: WanCodecConfig) -> dict[str, str]:
    """diffusers' name -> the original one, of every tensor. LociError without diffusers."""
    return {name: to_original(name, config) for name in shapes_of(_on_meta(config).vae)}


def is_vae(names: Iterable[str]) -> bool:
    """Whether tensors of these names are a VAE of Wan, in one of the layouts."""
    return any(name.startswith(("encoder.conv1.", "encoder.conv_in.", "vae.")) for name in names)


def open_vae(path: str | Path, config: WanCodecConfig | None = None) -> VaeWeights:
    """What holds the weights of a VAE: a folder of diffusers (the VAE's, or the pipeline's around
    it), a download of Wan or its .pth file, or a checkpoint of a codec.

    config: of an original file that is not one of the released two. Raises LociError where there is
    no VAE, and for a folder with several.
    """
    path = _found(resolve_checkpoint(path))
    if is_checkpoint(path):
        return _of_checkpoint(path)
    stored = open_weights(path)
    settings = (path if path.is_dir() else path.parent) / CONFIG
    names = [*stored, *stored.absent]
    if not is_vae(names):
        stored.check()
        raise LociError(f"{path} holds no VAE of Wan; give its folder, or Wan2.1_VAE.pth")
    if any(name.startswith("encoder.conv_in.") for name in names):
        return VaeWeights(stored, Layout.DIFFUSERS, config or read_diffusers_config(settings))
    if config is None:
        nested = any(name.startswith(_NESTED_ORIGINAL) for name in names)
        config = wan_vae_2_2() if nested else wan_vae_2_1()
    back = {ours: theirs for theirs, ours in names_to_original(config).items()}
    renamed = stored.renamed(lambda name: back.get(name, name))
    return VaeWeights(renamed, Layout.ORIGINAL, config)


def load_vae(
    path: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu",
    config: WanCodecConfig | None = None,
) -> WanCodec:
    """The codec whose weights are at `path` (see `open_vae`), in evaluation mode; its floats in
    `dtype` (None: as they are stored), read one tensor at a time onto `device`.

    Raises LociError that lists all that is missing, unknown or of another shape.
    """
    stored, _, config = open_vae(path, config)
    codec = _on_meta(config)
    stored.check(shapes_of(codec.vae))
    fill(codec.vae, stored, dtype, device)
    codec.set_statistics(device)
    return codec.eval()


def _on_meta(config: WanCodecConfig) -> WanCodec:
    with torch.device("meta"):
        return config.build()


def _found(path: Path) -> Path:
    """The VAE in a folder that holds other parts too."""
    if (path / PIPELINE).is_file():
        return path / FOLDER
    files = sorted(path.glob(ORIGINAL_FILES)) if path.is_dir() else []
    if len(files) > 1:
        raise LociError(f"{path} holds {', '.join(f.name for f in files)}; name one of them")
    return files[0] if files else path


def _of_checkpoint(path: Path) -> VaeWeights:
    kind = checkpoint_kind(path)
    if kind != KIND:
        raise LociError(f"{path} holds a {kind}, not a codec; give another")
    config: Any = CodecConfig.from_dict(load_checkpoint(path, KIND).config)
    if not isinstance(config, WanCodecConfig):
        raise LociError(f"{path} holds a codec of another kind ({config.type_name}); give Wan's")
    stored = open_weights(path).some(lambda name: name.startswith(PLACE))
    renamed = stored.renamed(lambda name: name.removeprefix(PLACE))
    return VaeWeights(renamed, Layout.LOCI, config)


def _begun(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """A name whose beginning is one of the first, with the second in its place."""
    for theirs, ours in pairs:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
