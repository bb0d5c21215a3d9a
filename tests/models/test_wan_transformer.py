"""The Wan transformer by itself: what it refuses, and what it computes in which precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from loci.errors import LociError
from loci.models.wan import Wan, WanConfig

CONFIG = WanConfig(
    in_channels=4, out_channels=4, dim=24, ffn_dim=32, num_heads=2, num_layers=2, freq_dim=8,
    text_dim=6, text_len=12,
)
LATENTS, TIME = torch.ones(2, 3, 4, 8, 6), torch.full((2, 1), 0.5)


@pytest.fixture(scope="module")
def wan() -> Wan:
    torch.manual_seed(0)
    return Wan(CONFIG).eval()


@pytest.mark.parametrize(("latents", "time", "line"), [
    (LATENTS[..., :7, :], TIME, "latents of 3 frames of 7x6 do not split into patches of 1 x 2x2"),
    (LATENTS[..., :5], TIME, "latents of 3 frames of 8x5 do not split into patches of 1 x 2x2"),
    (LATENTS[0], TIME, r"latents of shape \(3, 4, 8, 6\); give \(B, T, 4, H, W\)"),
    (LATENTS[:, :, :3], TIME, r"latents of shape \(2, 3, 3, 8, 6\); give \(B, T, 4, H, W\)"),
    (LATENTS.long(), TIME, "latents in int64; give floating point numbers"),
    (LATENTS.numpy(), TIME, "latents: a numpy.ndarray; give a torch tensor"),
    (LATENTS, TIME[:, 0], r"time of shape \(2,\); give \(B, tokens\)"),
    (LATENTS, TIME.expand(2, 5), r"times of shape \(2, 5\); give \(B, 1\) or \(B, 36\)"),
    (LATENTS, TIME.bfloat16(), "times in torch.bfloat16 are rounded"),
    (LATENTS, TIME.half(), "times in torch.float16 are rounded"),
    (LATENTS, 0.5, r"time: a float; give a torch tensor"),
])
def test_what_does_not_fit_is_one_line(wan: Wan, latents: Any, time: Any, line: str) -> None:
    with pytest.raises(LociError, match=line) as caught:
        wan(latents, time)
    assert "\n" not in str(caught.value)


def test_text_of_another_dtype_is_the_same_text(wan: Wan) -> None:
    text = torch.randn(2, 5, 6).bfloat16()
    with torch.no_grad():
        same = [wan(LATENTS, TIME, wan.encode_text(t, (5, 3))) for t in (text, text.float())]
    assert torch.equal(*same)
    for wrong, lengths in ((text[..., :5], (5, 3)), (text, (5,)), (text, (6, 3))):
        with pytest.raises(LociError, match=r"give \(B, S, 6\) and a length of 0 to 5"):
            wan.encode_text(wrong, lengths)


def test_times_modulation_and_head_stay_in_the_precision_of_the_weights(wan: Wan) -> None:
    """Under autocast, as in the released code; what is between them is in half."""
    into: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda _, args, out, name=name: into.update({
            name: args[0], f"{name} out": out,
        }))
        for name, layer in (
            ("head", wan.head.head), ("time", wan.time_embedding[0]),
            ("modulation", wan.time_projection[-1]), ("inner", wan.blocks[0].ffn[0]),
        )
    ]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = wan(LATENTS, TIME)
    for handle in handles:
        handle.remove()
    assert out.dtype == torch.float32
    for name in ("head", "time", "modulation"):
        assert into[name].dtype == into[f"{name} out"].dtype == torch.float32, name
    assert into["inner out"].dtype == torch.bfloat16
