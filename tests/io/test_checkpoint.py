"""Checkpoint files: back as they were, and every bad file named in one line."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from loci.errors import LociError
from loci.io.checkpoint import (
    CONVENTIONS,
    commit,
    digest,
    load_checkpoint,
    load_into,
    save_checkpoint,
)

CONFIG = {"width": 3, "names": ["a", "b"]}


def some_tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "weight": torch.randn(4, 3, generator=draw),
        "bias": torch.randn(4, generator=draw),
        "scale": torch.tensor(3.14159),
        "count": torch.arange(6).reshape(2, 3),
        "mask": torch.tensor([[True, False]]),
        "none": torch.zeros(0, 7),
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, "codec", CONFIG, some_tensors(), steps=7, minutes=1.5)
    return path


def rewrite_metadata(path: Path, **changes: str) -> None:
    """The same file with other metadata."""
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata | changes)


def test_everything_comes_back(file: Path) -> None:
    config, tensors, metadata = load_checkpoint(file, "codec")
    assert config == CONFIG
    assert tensors.keys() == some_tensors().keys()
    for name, tensor in some_tensors().items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert metadata["training"] == {"steps": 7, "minutes": 1.5}
    assert metadata["conventions"] == CONVENTIONS
    assert metadata["digest"] == digest(some_tensors())
    assert metadata["commit"] == commit()
    assert (metadata["kind"], metadata["version"]) == ("codec", "1")


def test_bf16_is_for_matrices_and_costs_half(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    big = {"w": torch.randn(500, 400), "statistics": torch.tensor([1.23456789, 2.0])}
    save_checkpoint(path, "codec", {}, big, dtype=torch.bfloat16)
    tensors = load_checkpoint(path, "codec").tensors
    assert tensors["w"].dtype == torch.bfloat16
    assert torch.equal(tensors["w"], big["w"].bfloat16())
    assert torch.equal(tensors["statistics"], big["statistics"])
    assert path.stat().st_size < 2 * 500 * 400 + 4000


def test_the_same_content_is_the_same_bytes(file: Path, tmp_path: Path) -> None:
    for index in range(4):
        again = tmp_path / f"{index}.safetensors"
        save_checkpoint(again, "codec", CONFIG, some_tensors(), minutes=1.5, steps=7)
        assert again.read_bytes() == file.read_bytes()


def test_tied_and_transposed_tensors_are_saved(tmp_path: Path) -> None:
    weight = torch.randn(3, 5)
    tied = {"a": weight, "b": weight, "c": weight.T, "d": weight[1]}
    save_checkpoint(tmp_path / "m.safetensors", "codec", {}, tied)
    back = load_checkpoint(tmp_path / "m.safetensors", "codec").tensors
    assert all(torch.equal(back[name], tensor) for name, tensor in tied.items())


def test_the_digest_knows_names_types_shapes_and_bytes() -> None:
    one = torch.zeros(4)
    others = [{"b": one}, {"a": one.int()}, {"a": one.reshape(2, 2)}, {"a": one + 1e-30}]
    assert len({digest(t) for t in [{"a": one}, *others]}) == 5
    assert digest({"a": one, "b": one}) == digest({"b": one.clone(), "a": one})


def test_every_truncation_is_noticed(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in [0, 4, 8, 9, 200, len(whole) // 2, len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(LociError, match="cut short"):
            load_checkpoint(cut, "codec")


def test_a_flipped_bit_is_noticed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(LociError, match="damaged: its tensors changed"):
        load_checkpoint(file, "codec")


def foreign_pickle(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)


def foreign_text(path: Path) -> None:
    path.write_text("# a recipe, not a checkpoint\n" * 10)


def foreign_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(3)}, path, {"format": "pt"})


def foreign_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 4) + b"{{{{" + b"0" * 50)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"")


def full(path: Path) -> None:
    path.unlink()
    path.mkdir()
    for number in range(8):
        (path / f"{number}.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (foreign_pickle, "not a safetensors file"),
        (foreign_text, "not a safetensors file"),
        (foreign_header, "not a safetensors file"),
        (foreign_safetensors, "another program"),
        (folder, "is a folder; name a file in it: model.safetensors"),
        (full, "name a file in it: 0.safetensors, 1.safetensors, 2.safetensors, 3.safetensors, 4."),
        (full, "4.safetensors and 3 more"),
        (lambda p: p.unlink(), "no checkpoint at"),
        (lambda p: rewrite_metadata(p, version="9"), "version 9 and this Loci reads version 1"),
        (lambda p: rewrite_metadata(p, kind="world-model"), "holds a world-model and a codec"),
        (lambda p: rewrite_metadata(p, config="{"), "damaged metadata"),
    ],
)
def test_bad_files_are_named_in_one_line(file: Path, make, words: str) -> None:
    make(file)
    with pytest.raises(LociError) as caught:
        load_checkpoint(file, "codec")
    message = str(caught.value)
    assert words in message
    assert str(file) in message
    assert "\n" not in message


def test_a_failed_write_keeps_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(LociError, match="No space left on device"):
        save_checkpoint(file, "codec", CONFIG, {"a": torch.zeros(9)})
    assert file.read_bytes() == old
    assert list(file.parent.iterdir()) == [file]


def test_a_module_takes_its_tensors_in_its_own_dtype() -> None:
    source, target = nn.Linear(3, 4), nn.Linear(3, 4).double()
    load_into(target, {k: v.bfloat16() for k, v in source.state_dict().items()})
    assert target.weight.dtype == torch.float64
    assert torch.equal(target.weight, source.weight.bfloat16().double())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("0.bias"), "lacks the tensor '0.bias'"),
        (lambda t: t.update({"2.weight": torch.zeros(1)}), "tensor '2.weight' that the model has"),
        (lambda t: t.update({"0.weight": torch.zeros(3, 4)}), "'0.weight' is (3, 4), the model"),
    ],
)
def test_other_tensors_are_refused_and_nothing_is_copied(change, words: str) -> None:
    module = nn.Sequential(nn.Linear(3, 4))
    before = digest(module.state_dict())
    tensors = {k: v + 1 for k, v in module.state_dict().items()}
    change(tensors)
    with pytest.raises(LociError) as caught:
        load_into(module, tensors, "runs/a.safetensors")
    assert words in str(caught.value)
    assert "runs/a.safetensors" in str(caught.value)
    assert digest(module.state_dict()) == before


def test_the_header_is_what_the_library_reads(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["config"]) == CONFIG
    assert metadata["format"] == "loci-checkpoint"
