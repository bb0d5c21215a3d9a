"""Wan's transformer from the published layouts: every tensor is accounted for, one at a time."""

from __future__ import annotations

import copy
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import wan_downloads as made
from loci.errors import LociError
from loci.io.checkpoint import save_checkpoint
from loci.memory import ROWS
from loci.models.wan import Wan, WanConfig
from loci.models.weights import released
from loci.models.weights.diffusers import (
    config_from_diffusers,
    config_to_diffusers,
    from_diffusers,
    to_diffusers,
)
from loci.models.weights.original import config_from_original, config_to_original
from loci.models.weights.shards import StoredTensors
from loci.models.weights.wan import KIND, Layout, load_wan, open_wan
from tiny_world import tiny_world

diffusers = pytest.importorskip("diffusers")
SECOND = "diffusion_pytorch_model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def theirs() -> Any:
    return made.transformer()


@pytest.fixture
def original(tmp_path: Path, theirs: Any) -> Path:
    return made.original_folder(tmp_path / "original", theirs)


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 3, 4, 8, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def text() -> torch.Tensor:
    return torch.randn(2, 512, 20, generator=torch.Generator().manual_seed(2))


def stored_somehow(layout: str, folder: Path, theirs: Any) -> Path:
    if layout == "shards of diffusers":
        theirs.save_pretrained(folder, max_shard_size="100KB")
        assert len(list(folder.glob("*.safetensors"))) > 3
    elif layout == "pipeline":
        theirs.save_pretrained(folder / "transformer")
        (folder / "model_index.json").write_text("{}")
    elif layout == "checkpoint":
        config = config_from_diffusers(theirs.config)
        folder.mkdir()
        tensors = made.original_names(theirs)
        save_checkpoint(folder / "wan.safetensors", KIND, config, tensors)
        return folder / "wan.safetensors"
    else:
        made.original_folder(folder, theirs, shards=3 if layout == "shards" else 1)
    return folder


@pytest.mark.parametrize("layout", [
    "shards", "one file", "shards of diffusers", "pipeline", "checkpoint",
])
def test_every_layout_computes_what_diffusers_does(layout, tmp_path, theirs, latents, text):
    ours = load_wan(stored_somehow(layout, tmp_path / "wan", theirs))
    assert ours.config == config_from_diffusers(theirs.config)
    expected = made.run_theirs(theirs, latents, 0.731, text)
    got = made.run_ours(ours, latents, 0.731, text)
    assert (got - expected).abs().max() < 1e-5


def in_bf16(theirs: Any) -> Any:
    """As `from_pretrained` of diffusers makes it, which needs accelerate: some modules stay."""
    half = copy.deepcopy(theirs).bfloat16()
    whole = dict(theirs.named_parameters())
    for name, parameter in half.named_parameters():
        if set(name.split(".")) & set(theirs._keep_in_fp32_modules):
            parameter.data = whole[name].data
    return half


def test_in_bf16_the_error_is_not_more_than_that_of_diffusers(original, theirs, latents, text):
    """With the same weights; what the released code computes in fp32 stays there."""
    half = in_bf16(theirs)
    exact = made.run_theirs(theirs, latents, 0.4, text)
    reference = made.run_theirs(half, latents.bfloat16(), 0.4, text.bfloat16()).float()
    ours = load_wan(original, torch.bfloat16)
    got = made.run_ours(ours, latents.bfloat16(), 0.4, text.bfloat16()).float()
    assert ours.blocks[0].ffn[0].weight.dtype == torch.bfloat16
    assert ours.head.head.weight.dtype == ours.blocks[0].modulation.dtype == torch.float32
    assert (got - exact).norm() <= (reference - exact).norm()


def test_the_names_go_both_ways(theirs):
    """Each of diffusers' names has one of ours and goes back to itself; so do those of a model."""
    names = list(theirs.state_dict())
    expected = list(made.original_names(theirs))
    assert [from_diffusers(name) for name in names] == expected
    assert [to_diffusers(name) for name in expected] == names
    with torch.device("meta"):
        own = set(Wan(config_from_diffusers(theirs.config)).state_dict())
    assert own == set(expected)


@pytest.mark.parametrize("config", [
    *(make() for make in released.RELEASED.values()), released.wan_14b(36),
    WanConfig(in_channels=4, out_channels=4, dim=72, ffn_dim=96, num_heads=3, num_layers=3,
              patch=(1, 4, 2), text_dim=20, eps=1e-5),
])
def test_the_settings_go_both_ways(config):
    assert config_from_diffusers(json.loads(json.dumps(config_to_diffusers(config)))) == config
    shapes = {
        "patch_embedding.weight": (config.dim, config.in_channels, *config.patch),
        "text_embedding.0.weight": (config.dim, config.text_dim),
    }
    assert config_from_original(config_to_original(config), shapes) == config


def test_what_only_ours_has_is_not_written_elsewhere():
    plain = released.wan_2_1_t2v_1_3b()
    changes: list[dict[str, Any]] = [
        {"camera": "inject"}, {"theta": 5e3}, {"text_dim": 0}, {"out_channels": 0}
    ]
    for change in changes:
        for write in (config_to_diffusers, config_to_original):
            with pytest.raises(LociError, match="keep this one in Loci's"):
                write(replace(plain, **change))


def test_the_released_settings_are_read(theirs):
    """The published config.json of T2V-1.3B, and the kind that is not supported."""
    settings = {
        "_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 1536, "eps": 1e-06,
        "ffn_dim": 8960, "freq_dim": 256, "in_dim": 16, "model_type": "t2v", "num_heads": 12,
        "num_layers": 30, "out_dim": 16, "text_len": 512,
    }
    shapes = {"patch_embedding.weight": (1536, 16, 1, 2, 2),
              "text_embedding.0.weight": (1536, 4096)}
    config = config_from_original(settings, shapes)
    assert config == released.wan_2_1_t2v_1_3b()
    with torch.device("meta"):
        assert len(Wan(config).state_dict()) == 825  # as many as are published
    assert released.released_name(config) == "wan-2.1-t2v-1.3b"
    assert released.released_name(config_from_diffusers(theirs.config)) is None
    with pytest.raises(LociError, match="kind 'vace'"):
        config_from_original(settings | {"model_type": "vace"}, shapes)
    image = shapes | {"img_emb.proj.0.weight": (1280,)}
    with pytest.raises(LociError, match=r"kind 'i2v' .*not supported"):
        config_from_original(settings | {"model_type": "i2v"}, image)
    with pytest.raises(LociError, match=r"no tensor 'text_embedding\.0\.weight'"):
        config_from_original(settings, {"patch_embedding.weight": (1536, 16, 1, 2, 2)})
    with pytest.raises(LociError, match="no setting 'in_dim'"):
        config_from_original({k: v for k, v in settings.items() if k != "in_dim"}, shapes)


def test_all_that_is_wrong_is_one_message(original):
    """A missing shard, a tensor too few and too many, and one of another shape."""
    first = original / SECOND.replace("00002", "00001")
    tensors = load_file(first)
    named = list(tensors)
    del tensors[named[0]]
    tensors[named[1]] = torch.zeros(7)
    tensors["blocks.9.modulation"] = torch.zeros(2)
    save_file(tensors, first)
    index = original / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["blocks.9.modulation"] = first.name
    del content["weight_map"][named[0]]
    index.write_text(json.dumps(content))
    (original / SECOND).unlink()
    with pytest.raises(LociError) as caught:
        load_wan(original)
    message = str(caught.value)
    assert "\n" not in message
    for words in (f"a shard is missing: '{SECOND}'", f"lacks the tensor '{named[0]}'",
                  "has a tensor 'blocks.9.modulation'", f"'{named[1]}' is (7,), the model wants",
                  "fetch what is broken again", str(original)):
        assert words in message
    # What the missing shard held is not listed again.
    assert "lacks 2" not in message


def test_files_that_are_damaged_are_named(tmp_path, theirs):
    """The only file, without an index, and the shard that tells what config.json leaves out."""
    folder = made.original_folder(tmp_path / "one", theirs, shards=1)
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(LociError, match=rf"{file.name} is damaged .*fetch what is broken again"):
        load_wan(folder)
    folder = made.original_folder(tmp_path / "three", theirs)
    for file in folder.glob("*.safetensors"):
        if "patch_embedding.weight" in load_file(file):
            file.unlink()
    with pytest.raises(LociError, match=r"a shard is missing: [^;]*: fetch what is broken again"):
        load_wan(folder)


def test_names_in_a_message_are_bounded(original):
    settings = json.loads((original / "config.json").read_text())
    (original / "config.json").write_text(json.dumps(settings | {"num_layers": 5, "ffn_dim": 97}))
    with pytest.raises(LociError) as caught:
        load_wan(original)
    message = str(caught.value)
    assert "lacks 54 tensors: 'blocks.3.modulation'" in message
    assert "and 49 more" in message
    assert "and 4 more have other shapes" in message
    assert message.count("'") < 30


class Tracked(StoredTensors):
    """Counts the bytes of what was read and is still held."""

    def __getitem__(self, name: str) -> torch.Tensor:
        alive = [ref() for ref in self.handed]
        held = sum(t.nbytes for t in alive if t is not None)
        del alive
        tensor = super().__getitem__(name)
        self.handed.append(weakref.ref(tensor))
        self.peak = max(self.peak, held + tensor.nbytes)
        return tensor


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_no_more_is_held_than_the_model_and_one_tensor(original, monkeypatch, dtype):
    """At each read: the bytes that earlier reads still hold, and those of the model so far."""
    trackers: list[Any] = []

    def opened(path: Path) -> Any:
        stored = open_wan(path)
        tracked = Tracked(stored.tensors.path, stored.tensors.places)
        tracked.handed, tracked.peak = [], 0
        trackers.append(tracked)
        return stored._replace(tensors=tracked)

    monkeypatch.setattr("loci.models.weights.wan.open_wan", opened)
    model = load_wan(original, dtype)
    (tracked,) = trackers
    assert len(tracked.handed) == len(tracked) == len(model.state_dict())
    assert tracked.peak == max(4 * tensor.numel() for tensor in model.state_dict().values())
    # Its memory is its own: no part of a mapped file, nothing shared between tensors.
    for tensor in model.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for file in original.glob("*.safetensors"):
        with file.open("r+b") as opened:
            opened.write(bytes(file.stat().st_size))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_download_that_is_none_is_met_with_one_line(original, tmp_path):
    (original / "config.json").unlink()
    with pytest.raises(LociError, match=r"no config\.json beside .*original"):
        load_wan(original)
    config = WanConfig(in_channels=4, out_channels=4, dim=72, ffn_dim=96, num_heads=3,
                       num_layers=3, freq_dim=32, text_dim=20)
    assert load_wan(original, config=config).config == config
    (original / "config.json").write_text("[")
    with pytest.raises(LociError, match=r"config\.json cannot be read"):
        load_wan(original)
    (original / "config.json").write_text("[]")
    with pytest.raises(LociError, match=r"config\.json holds no settings"):
        load_wan(original)
    save_checkpoint(tmp_path / "codec.safetensors", "codec", config, {"a": torch.zeros(1)})
    with pytest.raises(LociError, match="holds a codec; give a transformer"):
        load_wan(tmp_path / "codec.safetensors")


def test_a_mixture_of_layouts_is_refused(original):
    save_file({"blocks.0.scale_shift_table": torch.zeros(1, 6, 72)}, original / "more.safetensors")
    index = original / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["blocks.0.scale_shift_table"] = "more.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(LociError, match=r"both 'blocks\.0\.modulation'.*mixture of layouts"):
        open_wan(original)


def test_a_world_models_transformer_is_one_too(tmp_path):
    model = tiny_world(ROWS["hybrid"])
    model.save(tmp_path / "world.safetensors")
    stored, layout, config = open_wan(tmp_path / "world.safetensors")
    assert (layout, config) == (Layout.LOCI, model.config.dit)
    assert set(stored) == set(model.dit.state_dict())
    dit = load_wan(tmp_path / "world.safetensors")
    for name, tensor in model.dit.state_dict().items():
        assert torch.equal(dit.state_dict()[name], tensor)
