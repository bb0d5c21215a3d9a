"""How should a camera enter the small model? Short trainings that differ in that alone.

    python benchmarks/camera.py [--steps 150] [--row hybrid] [--json]

Each variant trains on the same episodes in the same order with the same noise, and is scored by the
flow-matching loss of its averaged weights on train rooms that it did not train on (the second half
of 64 episodes' chunks, where memory can know most). Lower is better.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace

import torch
import tyro

from loci.io.checkpoint import commit
from loci.memory import row
from loci.recipes.rooms import rooms
from loci.training import initialise
from loci.training.ema import Ema
from loci.training.muon import build_optimizer
from loci.training.numerics import device_name
from loci.training.sampler import Sampler

HELD = 64  # the last episodes of the training set, kept out here


@dataclass
class Options:
    steps: int = 150
    row: str = "hybrid"
    batch: int = 6
    threads: int = 2
    json: bool = False


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    variants = {
        "rotary, heads start aligned": ("rotary", initialise.ALIGNED),
        "rotary, plain start": ("rotary", 0.0),
        "inject (Echo-Memory)": ("inject", 0.0),
    }
    results = {name: score(options, *variant) for name, variant in variants.items()}
    report = {"protocol": {**vars(options), "held_out_episodes": HELD, "seed": 0,
                           "device": device_name(torch.device("cpu")), "commit": commit(),
                           "torch": torch.__version__}, "loss": results}
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for name, loss in results.items():
            print(f"{name:30s} {loss:.4f}")


def score(options: Options, camera: str, aligned: float) -> float:
    run = rooms(row(options.row))
    dit = replace(run.world.dit, camera=camera)
    train = replace(run.train, steps=options.steps, warmup=min(20, options.steps))
    run = replace(run, world=replace(run.world, dit=dit), train=train, batch=options.batch)
    initialise.ALIGNED, before = aligned, initialise.ALIGNED
    try:
        torch.manual_seed(0)
        task = run.task()
    finally:
        initialise.ALIGNED = before
    judge, episodes = copy.copy(task), range(len(task.data))
    for part, own in ((task, episodes[:-HELD]), (judge, episodes[-HELD:])):
        part.data = part.data.rows(own)
        part.sampler = Sampler(0, options.batch, part.data.frames.tolist())
    optimizer, ema = build_optimizer(task.module, train), Ema(task.module, 0.98)
    for step in range(options.steps):
        losses, _ = task.loss(task.batch(step))
        optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(
            [p for p in task.module.parameters() if p.requires_grad], train.clip
        )
        for group in optimizer.param_groups:
            group["lr"] = train.rate(step) * group["scale"]
        optimizer.step()
        ema.update(step)
    ema.copy_to_module()
    with torch.no_grad():
        late = [judge.loss(judge.batch(step))[1]["late"] for step in range(HELD // options.batch)]
    return float(torch.cat(late).mean())


if __name__ == "__main__":
    main(tyro.cli(Options))
