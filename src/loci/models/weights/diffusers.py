"""Names of Wan weights: from diffusers' to the released ones, which are ours.

Source: the parameter names of diffusers' `WanTransformer3DModel` and of the Wan repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loci.errors import LociError
from loci.models.wan import WanConfig

_RENAMES = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"^(blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
    (r"^(blocks\.\d+)\.attn1\.", r"\1.self_attn."),
    (r"^(blocks\.\d+)\.attn2\.", r"\1.cross_attn."),
    (r"^(blocks\.\d+\.(?:self|cross)_attn)\.to_([qkv])\.", r"\1.\2."),
    (r"^(blocks\.\d+\.(?:self|cross)_attn)\.to_out\.0\.", r"\1.o."),
    (r"^(blocks\.\d+)\.norm2\.", r"\1.norm3."),
    (r"^(blocks\.\d+)\.ffn\.net\.0\.proj\.", r"\1.ffn.0."),
    (r"^(blocks\.\d+)\.ffn\.net\.2\.", r"\1.ffn.2."),
)


_SETTINGS = {
    "in_channels", "out_channels", "num_attention_heads", "attention_head_dim", "ffn_dim",
    "num_layers", "patch_size", "freq_dim", "text_dim", "eps",
}


def from_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a diffusers Wan transformer under the released names."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def config_from_diffusers(settings: Mapping[str, Any]) -> WanConfig:
    """Our configuration of a diffusers `config.json`; LociError for what we do not implement, and
    where a setting is missing."""
    missing = _SETTINGS - settings.keys()
    if missing:
        raise LociError(f"no setting '{min(missing)}': this is not the config of a Wan transformer")
    if settings.get("image_dim") or settings.get("added_kv_proj_dim"):
        raise LociError("image cross-attention (Wan 2.1 I2V) is not supported; use T2V or TI2V")
    if not settings.get("cross_attn_norm", True):
        raise LociError("Wan without a norm before its cross-attention is not supported")
    if settings.get("qk_norm") != "rms_norm_across_heads":
        raise LociError(f"query and key norm {settings.get('qk_norm')!r} is not supported")
    return WanConfig(
        in_channels=settings["in_channels"],
        out_channels=settings["out_channels"],
        dim=settings["num_attention_heads"] * settings["attention_head_dim"],
        ffn_dim=settings["ffn_dim"],
        num_heads=settings["num_attention_heads"],
        num_layers=settings["num_layers"],
        patch=tuple(settings["patch_size"]),
        freq_dim=settings["freq_dim"],
        text_dim=settings["text_dim"],
        eps=settings["eps"],
    )
