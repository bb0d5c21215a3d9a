"""Training of the image codec."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from loci.errors import LociError
from loci.models.codecs import ImageCodecConfig, to_float
from loci.recipes.rooms import image_codec
from loci.training.codec import CodecRun, recolour
from loci.training.run import RunConfig, run
from loci.training.train_config import TrainConfig

TINY = ImageCodecConfig(channels=4, width=8)


def test_batches_depend_on_seed_and_step_alone():
    config = CodecRun(train=TrainConfig(steps=1), codec=TINY, rooms=3, views=2, batch=4)
    torch.manual_seed(0)
    one = config.task()
    torch.manual_seed(0)
    two = config.task()
    one.batch(0)
    for key, value in one.batch(5).items():
        assert torch.equal(value, two.batch(5)[key])
    assert not torch.equal(one.batch(5)["images"], one.batch(6)["images"])
    for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_learns():
    task = CodecRun(train=TrainConfig(steps=1), codec=TINY, rooms=4, views=2, batch=8).task()
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=5e-3)
    history = []
    for step in range(120):
        losses, values = task.loss(task.batch(step))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        history.append(float(values["psnr"].mean()))
    assert sum(history[-10:]) / 10 > sum(history[:10]) / 10 + 3


def test_the_batch_stays_whole_whatever_the_threads(tmp_path):
    """Its statistics are the codec's: in parts they would be others, and threads would race."""
    config = CodecRun(
        train=TrainConfig(steps=3, dtype="fp32", log_every=1), codec=TINY, rooms=2, views=2, batch=4
    )
    weights, losses = [], []
    for number, threads in enumerate((1, 2, 2)):
        out = tmp_path / str(number)
        weights.append(run(config, out, threads=threads).weights)
        lines = map(json.loads, (out / "train.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert weights[1] == weights[2]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_samples_that_share_statistics_are_not_accumulated(tmp_path):
    train = TrainConfig(steps=1, accumulate=2)
    config = CodecRun(train=train, codec=TINY, rooms=3, views=2, batch=4)
    with pytest.raises(LociError, match=r"samples of CodecTask .* set train.accumulate to 1"):
        run(config, tmp_path / "run", threads=1)
    assert not list(tmp_path.iterdir())


def test_recipe_round_trips():
    assert RunConfig.from_json(image_codec().to_json()) == image_codec()


def test_recoloured_images_stay_in_range():
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (6, 16, 16, 3), dtype=torch.uint8, generator=draw)
    images = to_float(pictures).permute(0, 3, 1, 2)
    changed = recolour(images, np.random.default_rng(0))
    assert changed.shape == images.shape
    assert changed.abs().max() <= 1
    assert not torch.equal(changed, images)
