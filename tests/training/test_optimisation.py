"""How weights are optimised and averaged, and the arithmetic that they are made with."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from loci.errors import LociError
from loci.io.checkpoint import digest
from loci.training.ema import Ema
from loci.training.numerics import (
    matmul_precision,
    pick_device,
    pick_dtype,
    product_error,
    reproducible,
)
from loci.training.task import Batch, Losses, Task
from loci.training.train_config import TrainConfig
from loci.training.trainer import train


def test_the_average_is_the_textbook_one() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    ema, expected = Ema(module, 0.6), module.weight.detach().clone().double()
    for n in range(12):
        with torch.no_grad():
            module.weight.add_(torch.randn(2, 3))
        ema.update(n)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * module.weight.detach().double()
    assert ema.tensors.keys() == {"weight"}
    torch.testing.assert_close(ema.tensors["weight"].double(), expected, rtol=1e-6, atol=1e-6)
    ema.copy_to_module()
    assert torch.equal(module.weight, ema.tensors["weight"])


def test_the_rate_warms_up_and_falls_to_its_fraction() -> None:
    config = TrainConfig(steps=1000, lr=2.0, warmup=99, final=0.1)
    assert config.rate(0) == pytest.approx(0.02)
    assert config.rate(49) == pytest.approx(1.0)
    assert config.rate(99) == pytest.approx(2.0)
    assert config.rate(1000) == pytest.approx(0.2)
    rates = [config.rate(s) for s in range(99, 1000)]
    assert rates == sorted(rates, reverse=True)
    assert 0 < TrainConfig(steps=3, warmup=100).rate(2) < 1e-3


class Still(Task):
    """A task without gradients: what moves is moved by the decay alone."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(3, 2)
        self.autocast: list[bool] = []

    def batch(self, step: int) -> Batch:
        return {"x": torch.zeros(4, 3)}

    def loss(self, batch: Batch) -> Losses:
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return batch["x"].sum(1) + sum((p * 0).sum() for p in self.module.parameters()), {}


def test_only_matrices_decay(tmp_path: Path) -> None:
    task = Still()
    weight, bias = (p.detach().clone() for p in task.module.parameters())
    config = TrainConfig(
        steps=5, lr=0.1, warmup=0, final=1.0, weight_decay=0.5, ema=0.0, dtype="fp32"
    )
    train(task, config, tmp_path, threads=1, device="cpu")
    torch.testing.assert_close(task.module.weight, weight * (1 - 0.1 * 0.5) ** 5)
    assert torch.equal(task.module.bias, bias)
    assert task.autocast == [False] * 5


@pytest.mark.filterwarnings("ignore:.*only emulates bf16")
def test_bf16_is_autocast(tmp_path: Path) -> None:
    task = Still()
    train(task, TrainConfig(steps=2, dtype="bf16"), tmp_path, threads=1, device="cpu")
    assert task.autocast == [True, True]
    assert task.module.weight.dtype == torch.float32
    log = (tmp_path / "train.jsonl").read_text().splitlines()
    assert json.loads(log[0])["dtype"] == "bf16"


def test_numerics_are_probed_and_restored() -> None:
    cpu = torch.device("cpu")
    with matmul_precision("exact", cpu):
        assert product_error(cpu) < 5e-6
    with matmul_precision("fast", cpu) as chosen:
        assert chosen == "medium"
    assert torch.get_float32_matmul_precision() == "highest"
    with reproducible(cpu):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert pick_dtype("fp32", cpu) == torch.float32


def test_products_that_lose_digits_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loci.training.numerics.product_error", lambda device: 2e-3)
    with matmul_precision("exact", torch.device("cpu")) as chosen:
        assert chosen == "highest"


def test_devices_are_named() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(LociError, match="unknown device 'gpu'"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(LociError, match="no CUDA device is usable"):
            pick_device("cuda")


def test_nothing_to_train_is_refused(tmp_path: Path) -> None:
    task = Still()
    task.module.requires_grad_(False)
    before = digest(task.module.state_dict())
    with pytest.raises(LociError, match="no parameters that need a gradient"):
        train(task, TrainConfig(steps=1), tmp_path, device="cpu")
    assert digest(task.module.state_dict()) == before


class Twice(Task):
    """A weight that is used twice, and microbatches of which one waits in the middle."""

    def __init__(self, late: int) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(32, 32)
        self.late = late

    def batch(self, step: int) -> Batch:
        draw = torch.Generator().manual_seed(step)
        return {"x": torch.randn(8, 32, generator=draw), "place": [0] * 4 + [1] * 4}

    def loss(self, batch: Batch) -> Losses:
        out = self.module(batch["x"])
        time.sleep(0.03 * (batch["place"][0] == self.late))
        return self.module(out.tanh()).float().square().mean(1), {}


@pytest.mark.filterwarnings("ignore:.*only emulates bf16")
def test_runs_in_bf16_do_not_depend_on_which_thread_is_faster(tmp_path: Path) -> None:
    config = TrainConfig(steps=3, lr=0.05, warmup=0, dtype="bf16")
    weights = [
        train(Twice(late), config, tmp_path / str(late), threads=2, device="cpu").weights
        for late in (0, 1, 2)
    ]
    assert len(set(weights)) == 1
