"""A tiny UMT5 encoder and its tokenizer, made here, in the published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WIDTH = 16
WORDS = ("room", "the", "red", "a", "blue", "door", "cup", "walk", "through")
# Of the original file, from the modules of `t5.py`; a slip in the library's map shows.
ORIGINAL = (
    ("shared.weight", "token_embedding.weight"), ("encoder.final_layer_norm", "norm"),
    ("encoder.block.", "blocks."), (".layer.0.SelfAttention.relative_attention_bias",
                                    ".pos_embedding.embedding"),
    (".layer.0.SelfAttention.", ".attn."), (".layer.0.layer_norm", ".norm1"),
    (".layer.1.layer_norm", ".norm2"), (".layer.1.DenseReluDense.wi_0", ".ffn.gate.0"),
    (".layer.1.DenseReluDense.wi_1", ".ffn.fc1"), (".layer.1.DenseReluDense.wo", ".ffn.fc2"),
)


def encoder(seed: int = 0) -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=64, d_model=WIDTH, d_kv=6, d_ff=24, num_layers=2, num_heads=3,
        feed_forward_proj="gated-gelu",
    )
    model = UMT5EncoderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS]
    pieces += [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz&"]
    made = Tokenizer(models.Unigram(pieces, unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def original(model: Any) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in model.state_dict().items():
        for theirs, ours in ORIGINAL:
            name = name.replace(theirs, ours)
        named[name] = tensor
    named.pop("encoder.embed_tokens.weight", None)
    return named


def pipeline(folder: Path, model: Any) -> Path:
    """As diffusers writes one."""
    model.save_pretrained(folder / "text_encoder", max_shard_size="6KB")
    tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text("{}")
    return folder


def download(folder: Path, model: Any) -> Path:
    """As a download of Wan."""
    folder.mkdir()
    torch.save(original(model), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    tokenizer().save_pretrained(folder / "google/umt5-xxl")
    return folder
