"""Changes of low rank: nothing at first, learnt alone, and folded into plain weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import made_up_rooms
from loci.data.sources import RoomsData
from loci.errors import LociError
from loci.io.checkpoint import load_checkpoint
from loci.memory import Hybrid
from loci.models.world import WorldModel
from loci.recipes.rooms import rooms
from loci.seeds import seed_for
from loci.training.lora import Lora, fold
from loci.training.run import run
from loci.training.task import Batch
from loci.training.world import WorldRun, WorldTask

LORA = Lora(rank=3, alpha=6.0, targets=("dit.*.self_attn.*", "dit.*.ffn.0"))


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> WorldRun:
    monkeypatch.setattr(RoomsData, "load", made_up_rooms.load)
    whole = rooms(Hybrid())
    dit = replace(whole.world.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8)
    train = replace(whole.train, steps=3, warmup=0, muon=None, dtype="fp32", save_every=0.0)
    # A head of zeros that stays would let no gradient through.
    init = replace(whole.init, lora=LORA, trains=("gist_bank", "dit.head.*"))
    return replace(
        whole, world=replace(whole.world, dit=dit), init=init, batch=2, train=train,
        data=RoomsData(episodes=3, length=9),
    )


def begun(config: WorldRun) -> WorldModel:
    torch.manual_seed(0)
    return config.task().model


def test_it_changes_nothing_at_first_and_alone_is_trained(config: WorldRun) -> None:
    plain = begun(replace(config, init=replace(config.init, lora=None)))
    adapted = begun(config)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    rest = {name for name in trained if not name.startswith(("gist_bank", "dit.head."))}
    assert {name.rpartition(".")[2] for name in rest} == {"up", "down"}
    assert sum("up" in name for name in trained) == 2 * (4 + 1)
    own = plain.state_dict()
    fold(adapted)
    folded = adapted.state_dict()
    assert folded.keys() == own.keys()
    assert all(torch.equal(folded[name], own[name]) for name in own)


def test_folded_weights_compute_the_same() -> None:
    layer, x = nn.Linear(7, 5), torch.randn(4, 7)
    block = nn.ModuleDict({"q": layer})
    before = layer.weight.detach().clone()
    Lora(rank=2, alpha=4.0, targets=("q",)).adapt(block, "codec.")
    change = layer.parametrizations.weight[0]
    nn.init.normal_(change.up)
    expected, up, down = layer(x), change.up.detach(), change.down.detach()
    fold(block)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.weight, before + 2.0 * up @ down)
    assert type(layer) is nn.Linear


def test_a_run_writes_a_plain_model(config: WorldRun, tmp_path: Path) -> None:
    """Of what was adapted all has moved, of the rest nothing but what is trained besides."""
    run(config, tmp_path / "run", threads=1)
    found = load_checkpoint(tmp_path / "run" / "model.safetensors", "world-model").tensors
    torch.manual_seed(seed_for(config.train.seed, "weights"))
    start = replace(config, init=replace(config.init, lora=None)).task().model.state_dict()
    assert found.keys() == start.keys()
    moved = {n for n, value in found.items() if not torch.equal(value, start[n].to(value))}
    adapted = (*(f"self_attn.{part}.weight" for part in "qkvo"), "ffn.0.weight")
    assert moved == {n for n in found if n.startswith(("gist_bank", "dit.head.")) or (
        n.startswith("dit.blocks.") and n.endswith(adapted)
    )}
    assert WorldModel.load(tmp_path / "run" / "model.safetensors").config == config.world


def test_a_killed_run_learns_the_same_changes(
    config: WorldRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config, tmp_path / "whole", threads=1)
    make = WorldTask.batch

    def dies(self: WorldTask, step: int) -> Batch:
        if step == 2:
            raise KeyboardInterrupt
        return make(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(WorldTask, "batch", dies)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "killed", threads=1)
    run(config, tmp_path / "killed", threads=1, resume=True)
    one, two = (
        load_checkpoint(tmp_path / name / "model.safetensors", "world-model").tensors
        for name in ("whole", "killed")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("change", "line"), [
    ({"rank": 0}, "the rank counts"), ({"targets": ()}, "the rank counts"),
    ({"alpha": -1.0}, "alpha is -1.0"),
])
def test_settings_that_are_none_are_refused(change: dict, line: str) -> None:
    with pytest.raises(LociError, match=line):
        Lora(**change)


def test_a_pattern_that_names_nothing_is_refused(config: WorldRun) -> None:
    lora = Lora(targets=("dit.blocks.0.self_attn.quarry",))
    with pytest.raises(LociError, match=r"no linear layer is called 'dit.*quarry'"):
        begun(replace(config, init=replace(config.init, lora=lora)))
