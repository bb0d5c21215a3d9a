"""Wan's transformer as diffusers has it: names of tensors and settings, both ways.

Source: the parameter names and the config.json of diffusers' `WanTransformer3DModel`. Our names are
those of the Wan repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loci.errors import LociError
from loci.models.wan import WanConfig
from loci.models.weights.original import refuse_ours

CLASS = "WanTransformer3DModel"
# How names begin, outside the blocks and inside one: ours, theirs.
_OURS, _THEIRS = 0, 1
_OUTSIDE = (
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("head.modulation", "scale_shift_table"),
    ("head.head.", "proj_out."),
)
_INSIDE = (
    ("modulation", "scale_shift_table"),
    ("norm3.", "norm2."),
    ("ffn.0.", "ffn.net.0.proj."),
    ("ffn.2.", "ffn.net.2."),
    *(
        (f"{ours}.{part}.", f"{theirs}.{their_part}.")
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for part, their_part in (
            ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"),
            ("norm_q", "norm_q"), ("norm_k", "norm_k"),
        )
    ),
)
_BLOCK = re.compile(r"(blocks\.\d+\.)(.*)", re.DOTALL)
_SETTINGS = {
    "in_channels", "out_channels", "num_attention_heads", "attention_head_dim", "ffn_dim",
    "num_layers", "patch_size", "freq_dim", "text_dim", "eps",
}


def from_diffusers(name: str) -> str:
    """Our name of a tensor of diffusers. One that is none of theirs stays as it is."""
    return _renamed(name, _THEIRS, _OURS)


def to_diffusers(name: str) -> str:
    """diffusers' name of a tensor of ours."""
    return _renamed(name, _OURS, _THEIRS)


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


def config_to_diffusers(config: WanConfig) -> dict[str, Any]:
    """The settings that diffusers builds the same transformer from. LociError for what only ours
    has: cameras, other positions, no head."""
    refuse_ours(config)
    return {
        "_class_name": CLASS,
        "added_kv_proj_dim": None,
        "attention_head_dim": config.head_dim,
        "cross_attn_norm": True,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "image_dim": None,
        "in_channels": config.in_channels,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_channels": config.out_channels,
        "patch_size": list(config.patch),
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": config.text_dim,
    }


def _renamed(name: str, old: int, new: int) -> str:
    block = _BLOCK.fullmatch(name)
    head, tail = block.groups() if block else ("", name)
    for pair in _INSIDE if block else _OUTSIDE:
        if tail.startswith(pair[old]):
            return head + pair[new] + tail.removeprefix(pair[old])
    return name
