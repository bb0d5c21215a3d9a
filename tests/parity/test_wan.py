"""With the same weights, our transformer is diffusers' `WanTransformer3DModel`."""

from __future__ import annotations

import pytest
import torch

from loci.io.checkpoint import load_into
from loci.models.trunk import padding_bias
from loci.models.wan import Wan
from loci.models.weights.diffusers import config_from_diffusers, from_diffusers
from loci.models.weights.released import wan_2_1_t2v_1_3b, wan_2_2_ti2v_5b, wan_14b

diffusers = pytest.importorskip("diffusers")


def both(channels: int, heads: int = 3, width: int = 24):
    torch.manual_seed(0)
    theirs = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=heads, attention_head_dim=width,
        in_channels=channels, out_channels=channels, text_dim=20, freq_dim=32, ffn_dim=96,
        num_layers=3, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=64,
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    ours = Wan(config_from_diffusers(theirs.config)).eval()
    load_into(ours, {from_diffusers(k): t for k, t in theirs.state_dict().items()}, "diffusers")
    return theirs, ours


def run_theirs(model, latents, timestep, text):
    with torch.no_grad():
        out = model(latents.transpose(1, 2), timestep, text, return_dict=False)[0]
    return out.transpose(1, 2)


@pytest.mark.parametrize("lengths", [(7, 3), (12, 1)])
def test_text_to_video_with_one_timestep(lengths):
    theirs, ours = both(channels=4)
    latents = torch.randn(2, 3, 4, 8, 6)
    text = torch.randn(2, 512, 20)
    for row, length in enumerate(lengths):
        text[row, length:] = 0
    timestep = torch.tensor([731.0, 12.0])
    expected = run_theirs(theirs, latents, timestep, text)
    with torch.no_grad():
        cached = ours.encode_text(text, lengths)
        got = ours(latents, timestep[:, None].double() / 1000, cached)
    assert cached.keys[0].shape[2] == max(lengths) + 2
    assert (got - expected).abs().max() < 1e-5


def test_image_and_text_to_video_with_a_timestep_per_token():
    theirs, ours = both(channels=6)
    latents = torch.randn(2, 3, 6, 4, 8)
    text = torch.zeros(2, 512, 20)
    text[:, :5] = torch.randn(2, 5, 20)
    timestep = torch.randint(0, 1000, (2, 3 * 2 * 4)).float()
    timestep[:, :8] = 0
    expected = run_theirs(theirs, latents, timestep, text)
    with torch.no_grad():
        got = ours(latents, timestep.double() / 1000, ours.encode_text(text, (5, 5)))
    assert (got - expected).abs().max() < 1e-5


def test_collapsed_padding_is_exact_in_fp64():
    """512 padded keys and their handful of collapsed ones give the same to 1e-12."""
    _, ours = both(channels=4)
    ours = ours.double()
    latents = torch.randn(1, 2, 4, 4, 4, dtype=torch.float64)
    text = torch.zeros(1, 512, 20, dtype=torch.float64)
    text[:, :6] = torch.randn(1, 6, 20, dtype=torch.float64)
    time = torch.tensor([[0.4]], dtype=torch.float64)
    with torch.no_grad():
        collapsed = ours(latents, time, ours.encode_text(text, (6,)))
        whole = ours.encode_text(text, (512,))
        plain = ours(latents, time, whole)
    assert whole.keys[0].shape[2] == 514  # and two without weight
    assert (collapsed - plain).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_padding_weighs_the_same_in_half_precision(dtype):
    """Any number of padding keys, to a thousandth; log n alone is off by a hundredth in bf16."""
    count = torch.arange(513)[:, None]
    weight = padding_bias(count).to(dtype).double().exp().sum(dim=1)
    torch.testing.assert_close(weight, count[:, 0].double(), rtol=1e-3, atol=0)
    alone = count[1:].double().log().to(torch.bfloat16).double().exp()
    assert ((alone - count[1:]) / count[1:]).abs().max() > 0.01


def test_published_sizes():
    """2.1 T2V 1.3B, 2.2 TI2V 5B and 14B have the published parameter counts."""
    for config, count in (
        (wan_2_1_t2v_1_3b(), 1.4189e9), (wan_2_2_ti2v_5b(), 4.9998e9), (wan_14b(), 14.288e9)
    ):
        with torch.device("meta"):
            model = Wan(config)
        total = sum(p.numel() for p in model.parameters())
        assert total == pytest.approx(count, rel=1e-3)


def test_positions_have_no_last_index():
    """Wan's own tables stop at 1023; ours continue, and agree with a shift of all frames."""
    from loci.attention.rotary import rotate
    from loci.models.rope import wan_angles
    from loci.rules.rule import Coords, Kind

    frames = torch.tensor([0, 5, 5000, 1_000_000])
    zero = torch.zeros_like(frames)
    coords = Coords.grid(frames, (1, 1), Kind.CLEAN, frames, zero)
    q, k = torch.randn(2, 1, 1, 4, 24, dtype=torch.float64)

    def scores(c):
        angles = wan_angles(c, 24)[None]
        rotary = torch.polar(torch.ones_like(angles), angles)
        return rotate(q, rotary) @ rotate(k, rotary).mT

    torch.testing.assert_close(scores(coords), scores(coords.shift(777)), atol=1e-8, rtol=1e-8)
