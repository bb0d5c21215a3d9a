"""Weights in shards, as diffusers and the Hub write them, with what users find beside theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loci.errors import LociError
from loci.models.weights.shards import open_weights

WEIGHTS = {name: torch.full((2,), float(place)) for place, name in enumerate("abcdef")}
SHARD = "model-{:05d}-of-00003.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where: dict[str, str] = {}
    for shard in range(3):
        part = {name: WEIGHTS[name] for name in list(WEIGHTS)[shard::3]}
        save_file(part, tmp_path / SHARD.format(shard + 1))
        where |= dict.fromkeys(part, SHARD.format(shard + 1))
    write_index(tmp_path, where)
    return tmp_path


def write_index(folder: Path, where: dict[str, str], name: str = "model") -> None:
    index = {"metadata": {}, "weight_map": where}
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index))


def whole(found: Mapping[str, torch.Tensor]) -> bool:
    return found.keys() == WEIGHTS.keys() and all(
        torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS
    )


def test_exactly_what_the_index_names_is_read(folder):
    assert whole(open_weights(folder).check())
    save_file({name: t * 0 + 7 for name, t in WEIGHTS.items()}, folder / "model-old.safetensors")
    half = {name: t.bfloat16() for name, t in WEIGHTS.items()}
    save_file(half, folder / "model.bf16.safetensors")
    write_index(folder, {"a": "model.bf16.safetensors"}, "model.bf16")
    assert whole(open_weights(folder).check())


def test_a_shard_that_is_missing_damaged_or_of_another_model_is_named(folder):
    second = folder / SHARD.format(2)
    content = second.read_bytes()
    second.write_bytes(content[:-8])
    with pytest.raises(LociError, match=rf"{second.name} is damaged .*: fetch what is broken"):
        open_weights(folder).check()
    save_file({"b": WEIGHTS["b"]}, second)
    with pytest.raises(LociError, match=rf"'{second.name}' lack what the index .*'e'"):
        open_weights(folder).check()
    second.unlink()
    with pytest.raises(LociError, match=rf"a shard is missing: '{second.name}'"):
        open_weights(folder).check()


def test_without_an_index_a_tensor_stands_in_one_file(tmp_path):
    save_file({"a": WEIGHTS["a"]}, tmp_path / "one.safetensors")
    save_file({n: t for n, t in WEIGHTS.items() if n != "a"}, tmp_path / "two.safetensors")
    assert whole(open_weights(tmp_path).check())
    save_file({"a": WEIGHTS["a"] + 1}, tmp_path / "three.safetensors")
    with pytest.raises(LociError, match=r"'a' in one\.safetensors and three\.safe"):
        open_weights(tmp_path).check()
    assert set(open_weights(tmp_path / "three.safetensors")) == {"a"}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {"a": "../x.safetensors"}}'])
def test_an_index_that_is_none_is_refused(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(LociError, match="fetch it again"):
        open_weights(folder).check()


def test_where_nothing_is_one_line_says_so(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(LociError, match="no weights at"):
            open_weights(place).check()
