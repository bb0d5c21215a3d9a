"""How should a camera enter the small model? Short trainings that differ in that alone.

    python benchmarks/camera.py [--steps 150] [--row hybrid] [--json] [--out FILE]

Each variant trains on the same episodes in the same order with the same noise, and is scored by the
flow-matching loss of its averaged weights on train rooms that it did not train on (the second half
of 64 episodes' chunks, where memory can know most). Lower is better. Intervals are over those
episodes: how much another training would differ, they do not say.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
import tyro

from loci.data.sources import RoomsData
from loci.memory import row
from loci.recipes.rooms import rooms
from loci.study.estimates import Estimate, Tally, bootstrap
from loci.study.provenance import BOOTSTRAP
from loci.training import initialise
from loci.training.ema import Ema
from loci.training.muon import build_optimizer
from loci.training.sampler import Sampler
from loci.training.world import WorldRun
from protocol import Output, protocol, save

SEED = 0


@dataclass
class Options(Output):
    steps: int = 150
    row: str = "hybrid"
    batch: int = 6
    episodes: int = 1000
    held: int = 64  # of them, the last ones, kept out
    threads: int = 2


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    variants = {
        "rotary, heads start aligned": ("rotary", initialise.ALIGNED),
        "rotary, plain start": ("rotary", 0.0),
        "inject (Echo-Memory)": ("inject", 0.0),
    }
    runs = {name: recipe(options, camera) for name, (camera, _) in variants.items()}
    found = {name: score(options, runs[name], aligned) for name, (_, aligned) in variants.items()}
    (cases,) = {loss.n for loss in found.values()}
    made = protocol(
        options, {name: run.world for name, run in runs.items()}, seed=SEED, cases=cases,
        steps=options.steps, batch=options.batch, bootstrap=BOOTSTRAP,
        recipes={name: run.hash() for name, run in runs.items()},
        aligned={name: aligned for name, (_, aligned) in variants.items()},
        spread="95 % bootstrap intervals over the episodes kept out, of one training each",
    )
    save(options, {
        "protocol": made,
        "loss": {name: loss.mean for name, loss in found.items()},
        "interval": {name: [loss.lo, loss.hi] for name, loss in found.items()},
    }, "\n".join(
        f"{name:30s} {loss.mean:.4f} [{loss.lo:.4f}, {loss.hi:.4f}]" for name, loss in found.items()
    ))


def recipe(options: Options, camera: str) -> WorldRun:
    run = rooms(row(options.row))
    return replace(
        run, world=replace(run.world, dit=replace(run.world.dit, camera=camera)),
        data=RoomsData(episodes=options.episodes), batch=options.batch,
        train=replace(run.train, steps=options.steps, warmup=min(20, options.steps), seed=SEED),
    )


def score(options: Options, run: WorldRun, aligned: float) -> Estimate:
    train = run.train
    initialise.ALIGNED, before = aligned, initialise.ALIGNED
    try:
        torch.manual_seed(SEED)
        task = run.task()
    finally:
        initialise.ALIGNED = before
    judge, episodes = copy.copy(task), range(len(task.data))
    for part, own in ((task, episodes[:-options.held]), (judge, episodes[-options.held:])):
        part.data = part.data.rows(own)
        part.sampler = Sampler(SEED, options.batch, part.data.frames.tolist())
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
        late = [
            judge.loss(judge.batch(step))[1]["late"]
            for step in range(options.held // options.batch)
        ]
    loss = bootstrap([Tally(value) for value in torch.cat(late).tolist()])
    assert loss is not None
    return loss


if __name__ == "__main__":
    main(tyro.cli(Options))
