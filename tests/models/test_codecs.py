"""The codec interface, its two codecs and the small one's training task."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loci.errors import LociError
from loci.geometry import Camera
from loci.models.codecs import (
    Codec,
    CodecConfig,
    ImageCodec,
    ImageCodecConfig,
    PixelCodecConfig,
    WanCodecConfig,
    to_float,
    to_uint8,
)

TINY = ImageCodecConfig(channels=4, width=8)
TINY_21 = {
    "base_dim": 4,
    "z_dim": 3,
    "dim_mult": (1, 2, 2, 2),
    "num_res_blocks": 1,
    "latents_mean": (0.1, -0.2, 0.3),
    "latents_std": (1.5, 0.5, 2.0),
}
TINY_22 = TINY_21 | {
    "decoder_base_dim": 8,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}


def video(batch: int, frames: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, frames, size, size, 3)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


@pytest.fixture(params=["image", "wan 2.1", "wan 2.2"])
def codec(request: pytest.FixtureRequest) -> Codec:
    torch.manual_seed(0)
    if request.param == "image":
        return TINY.build().eval()
    pytest.importorskip("diffusers")
    return WanCodecConfig(**(TINY_21 if request.param == "wan 2.1" else TINY_22)).build()


def pieces(codec: Codec, images: int) -> list[int]:
    """Sizes of pushes: the first image, then whole latent frames, now one, now two."""
    step = codec.images_per_frame
    sizes, left = [1], (images - 1) // step
    while left:
        take = min(left, 1 + len(sizes) % 2)
        sizes.append(take * step)
        left -= take
    return sizes


def test_shapes_of_every_codec(codec: Codec):
    frames = 1 + 2 * codec.images_per_frame
    latents = codec.encode(video(2, frames))
    assert latents.shape == (2, 3, *codec.latent_shape(Camera()))
    assert latents.dtype == torch.float32
    decoded = codec.decode(latents)
    assert decoded.shape == (2, frames, 64, 64, 3)
    assert decoded.dtype == torch.uint8
    assert codec.decode_float(latents).abs().max() <= 1


def test_pushes_equal_encode_bit_for_bit(codec: Codec):
    clip = video(2, 1 + 4 * codec.images_per_frame)
    state, parts = None, []
    for part in clip.split(pieces(codec, clip.shape[1]), dim=1):
        latents, state = codec.push(state, part)
        parts.append(latents)
    assert torch.equal(torch.cat(parts, dim=1), codec.encode(clip))


def test_pulls_equal_decode_bit_for_bit(codec: Codec):
    latents = torch.randn(2, 4, *codec.latent_shape(Camera()))
    state, parts = None, []
    with torch.no_grad():
        for part in latents.split([1, 2, 1], dim=1):
            images, state = codec.pull(state, part)
            parts.append(images)
        assert torch.equal(torch.cat(parts, dim=1), codec.decode_float(latents))


def test_streams_interleave_and_fork(codec: Codec):
    step = codec.images_per_frame
    one, two = video(1, 1 + 2 * step, seed=1), video(1, 1 + 2 * step, seed=2)
    _, state_one = codec.push(None, one[:, :1])
    _, state_two = codec.push(None, two[:, :1])
    _, after_one = codec.push(state_one, one[:, 1 : 1 + step])
    _, after_two = codec.push(state_two, two[:, 1 : 1 + step])
    end_one, _ = codec.push(after_one, one[:, 1 + step :])
    end_two, _ = codec.push(after_two, two[:, 1 + step :])
    assert torch.equal(end_one, codec.encode(one)[:, 2:])
    assert torch.equal(end_two, codec.encode(two)[:, 2:])
    again, _ = codec.push(state_one, one[:, 1 : 1 + step])
    assert torch.equal(again, codec.encode(one)[:, 1:2])


def test_state_is_a_plain_map_of_tensors():
    pytest.importorskip("diffusers")
    codec = WanCodecConfig(**TINY_21).build()
    latents, state = codec.push(None, video(1, 5, 16))
    assert state
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    _, state = codec.pull(None, latents[:, :1])
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_configurations_round_trip(codec: Codec):
    read = CodecConfig.from_json(codec.config.to_json())
    assert read == codec.config
    assert type(read.build()) is type(codec)


def test_weights_round_trip(codec: Codec):
    other = codec.config.build()
    other.load_state_dict(codec.state_dict())
    clip = video(1, 1 + codec.images_per_frame)
    assert torch.equal(other.encode(clip), codec.encode(clip))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda v: v.float(), "uint8"),
        (lambda v: v[0], "B, T, H, W, 3"),
        (lambda v: v.movedim(-1, 2), "B, T, H, W, 3"),
        (lambda v: v[:, :, :60], "multiples of"),
    ],
)
def test_other_videos_are_refused(codec: Codec, bad, reason: str):
    with pytest.raises(LociError, match=reason):
        codec.encode(bad(video(1, 1)))


def test_other_latents_are_refused(codec: Codec):
    with pytest.raises(LociError, match="another codec"):
        codec.decode(torch.zeros(1, 1, codec.channels + 1, 4, 4))


def test_what_is_no_tensor_is_refused(codec: Codec):
    for wrong in (None, video(1, 1).numpy(), "video"):
        with pytest.raises(LociError, match=r"video: .*; give a torch tensor"):
            codec.encode(wrong)  # pyrefly: ignore
        with pytest.raises(LociError, match=r"latents: .*; give a torch tensor"):
            codec.decode(wrong)  # pyrefly: ignore


def test_bytes_survive_floats():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(every)), every)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


# The image codec


def test_image_codec_is_small():
    assert sum(p.numel() for p in ImageCodecConfig().build().parameters()) < 150_000


def test_statistics_move_only_in_training_passes():
    codec = TINY.build().train()
    before = codec.mean.clone()
    codec.encode(video(1, 3))
    assert torch.equal(codec.mean, before)
    codec(torch.rand(4, 3, 64, 64))
    assert not torch.equal(codec.mean, before)
    moved = codec.mean.clone()
    codec.eval()(torch.rand(4, 3, 64, 64))
    assert torch.equal(codec.mean, moved)


def test_decode_float_carries_gradients():
    codec = TINY.build()
    latents = torch.randn(1, 2, *codec.latent_shape(Camera()), requires_grad=True)
    codec.decode_float(latents).square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


@given(st.integers(1, 3), st.integers(1, 70))
@settings(max_examples=8, deadline=None)
def test_image_codec_treats_images_alone(batch: int, frames: int):
    codec = ImageCodec(TINY)
    clip = video(batch, frames, 16)
    alone = torch.stack(
        [torch.stack([codec.encode(i[None, None])[0, 0] for i in row]) for row in clip]
    )
    assert torch.equal(codec.encode(clip), alone)


# The Wan codec


@pytest.mark.parametrize("tiny", [TINY_21, TINY_22], ids=["2.1", "2.2"])
def test_wan_equals_diffusers(tiny: dict):
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    codec = WanCodecConfig(**tiny).build()
    clip = video(2, 9)
    mean, std = codec.mean, codec.std
    with torch.no_grad():
        theirs = codec.vae.encode(to_float(clip).permute(0, 4, 1, 2, 3)).latent_dist.mode()
        ours = codec.encode(clip)
        assert torch.equal(ours, ((theirs - mean) / std).transpose(1, 2))
        back = codec.vae.decode(ours.transpose(1, 2) * std + mean).sample
        torch.testing.assert_close(
            codec.decode_float(ours), back.permute(0, 2, 3, 4, 1), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(("start", "images"), [(True, 4), (True, 6), (False, 1), (False, 5)])
def test_wan_refuses_images_that_would_be_dropped(start: bool, images: int):
    pytest.importorskip("diffusers")
    codec = WanCodecConfig(**TINY_21).build()
    state = None if start else codec.push(None, video(1, 1, 16))[1]
    with pytest.raises(LociError, match="whole latent frames"):
        codec.push(state, video(1, images, 16))


def test_wan_from_a_diffusers_folder(tmp_path):
    pytest.importorskip("diffusers")
    from loci.models.codecs.wan import from_diffusers
    from loci.models.weights.vae import load_vae

    codec = WanCodecConfig(**TINY_22).build()
    codec.vae.save_pretrained(tmp_path)
    read = load_vae(tmp_path)
    assert read.config == codec.config
    clip = video(1, 5, 32)
    assert torch.equal(read.encode(clip), codec.encode(clip))
    settings_ = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(LociError, match="did you mean 'base_dim'"):
        from_diffusers(settings_ | {"base_dims": 3})
    with pytest.raises(LociError, match="not of AutoencoderKLWan"):
        from_diffusers({"_class_name": "AutoencoderKL"})
    (tmp_path / "config.json").write_text(json.dumps(settings_ | {"num_res_blocks": 2}))
    with pytest.raises(LociError, match="lacks 48 tensors"):
        load_vae(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(LociError, match="damaged"):
        load_vae(tmp_path)
    with pytest.raises(LociError, match="no weights at"):
        load_vae(tmp_path / "nowhere")


def test_released_settings_have_the_published_sizes():
    pytest.importorskip("diffusers")
    from loci.models.codecs.wan import from_diffusers

    released_22 = TINY_22 | {
        "_class_name": "AutoencoderKLWan",
        "base_dim": 160,
        "clip_output": False,
        "decoder_base_dim": 256,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "z_dim": 48,
        "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48,
    }
    with torch.device("meta"):
        older, newer = WanCodecConfig().build(), from_diffusers(released_22).build()
    camera = Camera(height=480, width=832)
    assert older.latent_shape(camera) == (16, 60, 104)
    assert newer.latent_shape(camera) == (48, 30, 52)
    assert older.images_per_frame == newer.images_per_frame == 4
    # The published size of the Wan 2.1 VAE (arXiv 2503.20314, section 4.1): 127 M.
    assert round(sum(p.numel() for p in older.parameters()) / 1e6) == 127


def test_wan_settings_must_agree():
    pytest.importorskip("diffusers")
    with pytest.raises(LociError, match="scale_factor"):
        WanCodecConfig(**TINY_21 | {"scale_factor_spatial": 16}).build()
    with pytest.raises(LociError, match="latents_mean"):
        WanCodecConfig(**TINY_21 | {"latents_mean": (0.0,)}).build()


def test_pixels_as_they_are_come_back_to_the_last_bit():
    codec = PixelCodecConfig(mean=0.1, std=0.5).build()
    video = torch.randint(256, (2, 3, 32, 40, 3), dtype=torch.uint8)
    latents = codec.encode(video)
    assert latents.shape == (2, 3, *codec.latent_shape(Camera(height=32, width=40)))
    assert torch.equal(codec.decode(latents), video)
    first, state = codec.push(None, video[:, :1])
    rest, _ = codec.push(state, video[:, 1:])
    assert torch.equal(torch.cat([first, rest], dim=1), latents)
    with pytest.raises(LociError, match="more than 0"):
        PixelCodecConfig(std=0.0)
