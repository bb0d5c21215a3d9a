"""Wan's text encoder: what diffusers reads of a sentence, kept on disk under all it depends on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_umt5 as tiny
from loci.errors import LociError
from loci.models import umt5
from loci.models.text import TextEncoder
from loci.models.umt5 import NEGATIVE_PROMPT, UMT5
from loci.models.weights.text_encoder import load_umt5, open_umt5

pytest.importorskip("transformers")
LONG = "walk through the red room, " * 9
TEXTS = ["the red room", "", "a blue door & the cup walk through", NEGATIVE_PROMPT, LONG]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.encoder()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, model: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("text")
    return {
        "pipeline": tiny.pipeline(folder / "pipeline", model),
        "download": tiny.download(folder / "wan", model),
    }


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path / "cache"))
    umt5.release()
    return tmp_path / "cache"


def as_diffusers_does(model: Any, texts: list[str], length: int) -> torch.Tensor:
    """`WanPipeline._get_t5_prompt_embeds`: padded to the end, encoded together, cut, zeros."""
    tokens = tiny.tokenizer()(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        out = model(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return out * tokens.attention_mask[..., None]


@pytest.mark.parametrize("place", ["pipeline", "download"])
def test_sentences_are_read_as_diffusers_reads_them(place, places, model):
    encoder = UMT5(folder=str(places[place]), dtype="float32", text_len=24)
    embeddings, lengths = encoder.encode(TEXTS, tiny.WIDTH)
    expected = as_diffusers_does(model, TEXTS, 24)
    assert lengths[1] == 1  # the end of the text
    assert lengths[4] == embeddings.shape[1] == 24  # and no more
    assert embeddings.dtype == torch.float32
    assert (embeddings - expected).abs().max() < 1e-5
    assert TextEncoder.from_dict(encoder.to_dict()) == encoder


def test_texts_are_cleaned_as_wans_tokenizer_does():
    assert umt5.cleaned("  a &amp;lt; b\n\t c&nbsp;d ") == "a < b c d"


def test_an_embedding_is_computed_once(places, monkeypatch, cache):
    """Another process finds it on disk, and in other company it is the same to the last bit."""
    encoder = UMT5(folder=str(places["pipeline"]))
    first, lengths = encoder.encode(TEXTS, tiny.WIDTH)
    assert len(list((cache / "text").glob("*.safetensors"))) == len(TEXTS)
    umt5.release()

    def never(*_: object) -> None:
        raise AssertionError("the encoder is loaded for what is known")

    monkeypatch.setattr(umt5, "load_umt5", never)
    again, _ = encoder.encode([TEXTS[2], " the  red room"], tiny.WIDTH)
    assert torch.equal(again[0, : lengths[2]], first[2, : lengths[2]])
    assert torch.equal(again[1, : lengths[0]], first[0, : lengths[0]])
    assert not again[1, lengths[0]:].any()


def test_other_weights_tokenizers_lengths_and_dtypes_are_other_embeddings(tmp_path, cache):
    """Also where a file is changed in place, and in the same second."""
    folder = tiny.pipeline(tmp_path / "pipeline", tiny.encoder())

    def kept() -> int:
        UMT5(folder=str(folder)).encode(["the red room"], tiny.WIDTH)
        return len(list((cache / "text").glob("*.safetensors")))

    assert (kept(), kept()) == (1, 1)
    file = min((folder / "text_encoder").glob("*.safetensors"))
    save_file({name: t + 1 for name, t in load_file(file).items()}, file, {"format": "pt"})
    umt5.release()
    assert kept() == 2
    words = folder / "tokenizer/tokenizer.json"
    words.write_text(words.read_text().replace("▁red", "▁rot"))
    assert kept() == 3
    UMT5(folder=str(folder), text_len=7).encode(["the red room"], tiny.WIDTH)
    UMT5(folder=str(folder), dtype="float32").encode(["the red room"], tiny.WIDTH)
    assert kept() == 5


def test_what_is_wrong_is_one_line(tmp_path, places, cache):
    folder = tiny.pipeline(tmp_path / "pipeline", tiny.encoder())
    encoder = UMT5(folder=str(folder))
    with pytest.raises(LociError, match="a width of 16, the model reads 20"):
        encoder.encode(["a"], 20)
    with pytest.raises(LociError, match="dtype 'int8'"):
        UMT5(folder="x", dtype="int8")
    with pytest.raises(LociError, match="0 tokens"):
        UMT5(folder="x", text_len=0)
    (kept,) = (cache / "text").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-4])
    with pytest.raises(LociError, match=r"text embedding .* delete"):
        encoder.encode(["a"], tiny.WIDTH)
    min((folder / "text_encoder").glob("*.safetensors")).unlink()
    with pytest.raises(LociError, match="a shard is missing"):
        encoder.encode(["a"], tiny.WIDTH)
    (tmp_path / "bare").mkdir()
    file = "models_t5_umt5-xxl-enc-bf16.pth"
    shutil.copy(places["download"] / file, tmp_path / "bare" / file)
    with pytest.raises(LociError, match=r"no tokenizer in .*umt5-xxl"):
        UMT5(folder=str(tmp_path / "bare")).encode(["a"], tiny.WIDTH)
    (tmp_path / "bare/other.txt").write_text("no tokenizer")
    odd = UMT5(folder=str(places["download"]), tokenizer=str(tmp_path / "bare"))
    with pytest.raises(LociError, match=r"no tokenizer in .*bare"):
        odd.encode(["a"], tiny.WIDTH)


def test_every_tensor_of_both_layouts_is_accounted_for(tmp_path, model, places):
    """Missing and surplus ones are one message, and the embedding may be stored twice."""
    tensors = tiny.original(model)
    assert len(tensors) == len(model.state_dict()) - 1
    del tensors["blocks.1.ffn.fc1.weight"]
    tensors["blocks.1.ffn.fc3.weight"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "t5.pth")
    with pytest.raises(LociError, match=(
        r"lacks the tensor 'encoder.block.1.layer.1.DenseReluDense.wi_1.weight'; "
        r"has a tensor 'blocks.1.ffn.fc3.weight'"
    )):
        load_umt5(tmp_path / "t5.pth")
    twice = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (tmp_path / "twice").mkdir()
    save_file(twice, tmp_path / "twice/model.safetensors")
    config = places["pipeline"] / "text_encoder/config.json"
    (tmp_path / "twice/config.json").write_text(config.read_text())
    read = load_umt5(tmp_path / "twice", torch.bfloat16)
    assert read.encoder.embed_tokens.weight.data_ptr() == read.shared.weight.data_ptr()
    assert read.dtype == torch.bfloat16
    sizes = open_umt5(tmp_path / "twice").sizes
    assert sizes["d_kv"] == 6
    assert open_umt5(places["download"]).sizes.items() <= sizes.items()
