"""Wan's VAE from both layouts, 2.1 and 2.2: names and shapes of the original one, and the same
latents and images."""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loci.errors import LociError
from loci.io.checkpoint import save_checkpoint
from loci.models.codecs import PixelCodecConfig, WanCodec, WanCodecConfig
from loci.models.weights.layout import Layout
from loci.models.weights.torch_file import read_torch_file
from loci.models.weights.vae import (
    load_vae,
    names_to_original,
    open_vae,
    wan_vae_2_1,
    wan_vae_2_2,
)
from loci.training.init_from import read_codec

pytest.importorskip("diffusers")
TINY_21 = WanCodecConfig(
    base_dim=4, z_dim=3, dim_mult=(1, 2, 4, 4), num_res_blocks=2,
    latents_mean=(0.1, -0.2, 0.3), latents_std=(1.5, 0.5, 2.0),
)
TINY_22 = dataclasses.replace(
    TINY_21, decoder_base_dim=6, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
    scale_factor_spatial=16,
)
BOTH = pytest.mark.parametrize("config", [TINY_21, TINY_22], ids=["2.1", "2.2"])
Shapes = Iterator[tuple[str, tuple[int, ...]]]


# The networks of `vae.py` and `vae2_2.py`, as names and shapes. Written down from their modules.


def conv(name: str, out: int, into: int, *kernel: int) -> Shapes:
    yield f"{name}.weight", (out, into, *kernel)
    yield f"{name}.bias", (out,)


def residual(name: str, into: int, out: int) -> Shapes:
    yield f"{name}.residual.0.gamma", (into, 1, 1, 1)
    yield from conv(f"{name}.residual.2", out, into, 3, 3, 3)
    yield f"{name}.residual.3.gamma", (out, 1, 1, 1)
    yield from conv(f"{name}.residual.6", out, out, 3, 3, 3)
    if into != out:
        yield from conv(f"{name}.shortcut", out, into, 1, 1, 1)


def middle(name: str, dim: int) -> Shapes:
    yield from residual(f"{name}.middle.0", dim, dim)
    yield f"{name}.middle.1.norm.gamma", (dim, 1, 1)
    yield from conv(f"{name}.middle.1.to_qkv", 3 * dim, dim, 1, 1)
    yield from conv(f"{name}.middle.1.proj", dim, dim, 1, 1)
    yield from residual(f"{name}.middle.2", dim, dim)


def head(name: str, dim: int, out: int) -> Shapes:
    yield f"{name}.head.0.gamma", (dim, 1, 1, 1)
    yield from conv(f"{name}.head.2", out, dim, 3, 3, 3)


def original(config: WanCodecConfig) -> Shapes:
    z, base = config.z_dim, config.base_dim
    yield from conv("conv1", 2 * z, 2 * z, 1, 1, 1)
    yield from conv("conv2", z, z, 1, 1, 1)
    dims = [base * m for m in (1, *config.dim_mult)]
    last = len(config.dim_mult) - 1
    yield from conv("encoder.conv1", dims[0], config.in_channels, 3, 3, 3)
    place = 0
    for block, (into, out) in enumerate(pairwise(dims)):
        for inner in range(config.num_res_blocks + (block != last)):
            name = f"encoder.downsamples.{place}"
            if config.is_residual:
                name = f"encoder.downsamples.{block}.downsamples.{inner}"
            if inner == config.num_res_blocks:
                yield from conv(f"{name}.resample.1", out, out, 3, 3)
                if config.temperal_downsample[block]:
                    yield from conv(f"{name}.time_conv", out, out, 3, 1, 1)
            else:
                yield from residual(name, into if inner == 0 else out, out)
            place += 1
    yield from middle("encoder", dims[-1])
    yield from head("encoder", dims[-1], 2 * z)
    base = config.decoder_base_dim or base
    dims = [base * m for m in (config.dim_mult[-1], *reversed(config.dim_mult))]
    yield from conv("decoder.conv1", dims[0], z, 3, 3, 3)
    yield from middle("decoder", dims[0])
    place = 0
    for block, (into, out) in enumerate(pairwise(dims)):
        # In 2.1 whatever makes a block's images larger halves its channels.
        into = into // 2 if block and not config.is_residual else into
        for inner in range(config.num_res_blocks + 1 + (block != last)):
            name = f"decoder.upsamples.{place}"
            if config.is_residual:
                name = f"decoder.upsamples.{block}.upsamples.{inner}"
            if inner == config.num_res_blocks + 1:
                less = out if config.is_residual else out // 2
                yield from conv(f"{name}.resample.1", less, out, 3, 3)
                if config.temperal_downsample[::-1][block]:
                    yield from conv(f"{name}.time_conv", 2 * out, out, 3, 1, 1)
            else:
                yield from residual(name, into if inner == 0 else out, out)
            place += 1
    yield from head("decoder", dims[-1], config.out_channels)


def made(config: WanCodecConfig) -> WanCodec:
    torch.manual_seed(0)
    codec = config.build()
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return codec.eval()


def original_tensors(codec: WanCodec) -> dict[str, torch.Tensor]:
    names = names_to_original(codec.config)
    return {names[name]: tensor for name, tensor in codec.vae.state_dict().items()}


def video() -> torch.Tensor:
    seed = torch.Generator().manual_seed(3)
    return torch.randint(256, (1, 5, 16, 16, 3), dtype=torch.uint8, generator=seed)


@pytest.mark.parametrize("config", [
    TINY_21, TINY_22, dataclasses.replace(TINY_22, num_res_blocks=1), wan_vae_2_1(), wan_vae_2_2(),
])
def test_every_name_has_one_in_the_original_layout(config):
    """And every tensor there the shape that it has here, so that no two are exchanged."""
    names = names_to_original(config)
    assert len(set(names.values())) == len(names)
    with torch.device("meta"):
        own = config.build().vae.state_dict()
    assert own.keys() == names.keys()
    assert {names[name]: tuple(t.shape) for name, t in own.items()} == dict(original(config))


@BOTH
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_from_the_original_layout_it_computes_the_same(config, suffix, tmp_path):
    codec, file = made(config), tmp_path / f"Wan_VAE{suffix}"
    tensors = original_tensors(codec)
    torch.save(tensors, file) if suffix == ".pth" else save_file(tensors, file)
    _, layout, _ = open_vae(file, config)
    assert layout is Layout.ORIGINAL
    read = load_vae(file, config=config)
    latents = codec.encode(video())
    assert torch.equal(read.encode(video()), latents)
    assert torch.equal(read.decode_float(latents), codec.decode_float(latents))
    first, state = read.push(None, video()[:, :1])
    rest, _ = read.push(state, video()[:, 1:])
    assert torch.equal(torch.cat([first, rest], dim=1), latents)


@BOTH
def test_from_diffusers_and_from_a_checkpoint(config, tmp_path):
    codec = made(config)
    codec.vae.save_pretrained(tmp_path / "pipeline/vae", max_shard_size="40KB")
    (tmp_path / "pipeline/model_index.json").write_text("{}")
    save_checkpoint(tmp_path / "codec.safetensors", "codec", config, codec.state_dict())
    for place, expected in (("pipeline", Layout.DIFFUSERS), ("codec.safetensors", Layout.LOCI)):
        stored, layout, told = open_vae(tmp_path / place)
        assert (layout, told) == (expected, config)
        assert dict(stored.mismatch(stored.shapes).__dict__) == dict.fromkeys(
            ("missing", "surplus", "misshaped"), ()
        )
        read = load_vae(tmp_path / place)
        assert all(torch.equal(t, read.state_dict()[n]) for n, t in codec.state_dict().items())
    assert load_vae(tmp_path / "pipeline", torch.bfloat16).vae.dtype == torch.bfloat16


def test_the_released_files_say_which_vae_they_are(tmp_path):
    """By their structure; what does not fit is told in the names of diffusers."""
    for config, wanted in ((TINY_21, wan_vae_2_1()), (TINY_22, wan_vae_2_2())):
        folder = tmp_path / str(config.is_residual)
        folder.mkdir()
        torch.save(original_tensors(made(config)), folder / "Wan2.x_VAE.pth")
        assert open_vae(folder).config == wanted
        with pytest.raises(LociError, match=r"'encoder.conv_in.weight' is \(4, .* 1.. more have"):
            load_vae(folder)
    (tmp_path / "True/Wan2.1_VAE.pth").write_bytes(b"")
    with pytest.raises(LociError, match=r"holds Wan2\.1_VAE\.pth, Wan2\.x_VAE\.pth; name one"):
        open_vae(tmp_path / "True")


def test_missing_and_surplus_tensors_are_one_message(tmp_path):
    tensors = original_tensors(made(TINY_22))
    tensors["decoder.extra"] = tensors.pop("decoder.upsamples.1.upsamples.3.time_conv.bias")
    torch.save(tensors, tmp_path / "vae.pth")
    with pytest.raises(LociError, match=(
        r"lacks the tensor 'decoder.up_blocks.1.upsampler.time_conv.bias'; "
        "has a tensor 'decoder.extra' that"
    )):
        load_vae(tmp_path / "vae.pth", config=TINY_22)


class Harmful:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_pickle_is_never_run(tmp_path):
    trap = tmp_path / "it-ran"
    torch.save({"encoder.conv1.weight": Harmful(trap)}, tmp_path / "vae.pth")
    with pytest.raises(LociError, match="reading it would run code of its maker"):
        load_vae(tmp_path / "vae.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"a": Harmful(trap)}, 2))
    with pytest.raises(LociError, match=r"old\.pth"):
        load_vae(tmp_path / "old.pth")
    assert not trap.exists()


def test_files_of_torch_that_are_of_no_use(tmp_path):
    file = tmp_path / "a.pth"
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 3).bfloat16()}
    for new in (True, False):  # of today, and of before torch 1.6
        torch.save(tensors, file, _use_new_zipfile_serialization=new)
        read = read_torch_file(file)
        assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    torch.save({"model": tensors}, file)
    with pytest.raises(LociError, match="no flat map of tensors"):
        read_torch_file(file)
    torch.save(tensors, file)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(LociError, match=r"a\.pth is damaged"):
        read_torch_file(file)
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(LociError, match="holds no VAE of Wan"):
        load_vae(tmp_path / "b.safetensors")


def test_a_codec_of_another_kind_is_refused(tmp_path):
    codec = PixelCodecConfig()
    save_checkpoint(tmp_path / "pixels.safetensors", "codec", codec, {})
    with pytest.raises(LociError, match=r"codec of another kind \(pixels\)"):
        open_vae(tmp_path / "pixels.safetensors")
    save_checkpoint(tmp_path / "world.safetensors", "world-model", codec, {})
    with pytest.raises(LociError, match="holds a world-model, not a codec"):
        open_vae(tmp_path / "world.safetensors")


def test_training_starts_from_diffusers_vae(tmp_path):
    """In fp32, whatever it is stored in."""
    codec = made(TINY_21)
    codec.vae.bfloat16().save_pretrained(tmp_path / "vae")
    found = read_codec(str(tmp_path / "vae"))
    assert all(torch.equal(found[n], t.float()) for n, t in codec.state_dict().items())
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
