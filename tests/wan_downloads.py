"""Tiny downloads of Wan in exactly the published layouts, from a diffusers transformer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SETTINGS: dict[str, Any] = {
    "patch_size": (1, 2, 2), "num_attention_heads": 3, "attention_head_dim": 24, "in_channels": 4,
    "out_channels": 4, "text_dim": 20, "freq_dim": 32, "ffn_dim": 96, "num_layers": 3,
    "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 64,
}
# As in the released files: no patch size, no width of the text.
ORIGINAL = {
    "_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 72, "eps": 1e-6,
    "ffn_dim": 96, "freq_dim": 32, "in_dim": 4, "model_type": "t2v", "num_heads": 3,
    "num_layers": 3, "out_dim": 4, "text_len": 512,
}
# Written down on its own, from the two lists of names, so that a slip in the library shows.
NAMES = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("proj_out", "head.head"), ("attn1.to_out.0", "self_attn.o"), ("attn1.to_", "self_attn."),
    ("attn1", "self_attn"), ("attn2.to_out.0", "cross_attn.o"), ("attn2.to_", "cross_attn."),
    ("attn2", "cross_attn"), ("norm2", "norm3"), ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
)


def transformer(**changes: Any) -> Any:
    import diffusers

    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(**SETTINGS | changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def original_names(model: Any) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in model.state_dict().items():
        if name == "scale_shift_table":
            name = "head.modulation"
        name = name.replace("scale_shift_table", "modulation")
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        named[name] = tensor
    return named


def original_folder(folder: Path, model: Any, shards: int = 3) -> Path:
    """As Wan-AI/Wan2.2-TI2V-5B: config.json, shards and their index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(ORIGINAL))
    tensors = original_names(model)
    if shards == 1:
        save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
        return folder
    where = {}
    for number in range(shards):
        part = {name: tensors[name] for name in list(tensors)[number::shards]}
        file = f"diffusion_pytorch_model-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def run_theirs(model: Any, latents: torch.Tensor, time: float, text: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        steps = torch.full((len(latents),), 1000 * time)
        out = model(latents.transpose(1, 2), steps, text, return_dict=False)[0]
    return out.transpose(1, 2)


def run_ours(model: Any, latents: torch.Tensor, time: float, text: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        encoded = model.encode_text(text, [text.shape[1]] * len(text))
        return model(latents, torch.full((len(latents), 1), time, dtype=torch.float64), encoded)
