"""Streams of many lengths in one batch, against streams of one length and against one by one.

    python benchmarks/ragged_streams.py [--streams 32] [--robots 64] [--json] [--out FILE]

- `read` and `denoise` of a session of the small world model: `streams` streams that have seen 1, 2,
  ... frames each, against as many of their mean length;
- `act` of the small policy: `robots` robots whose episodes have `first`, `first` + 1, ... chunks,
  against as many of the mean length, and against one robot after the other.

Ratios within one process, in turns, medians with their quartiles. Weights are random: what is timed
does not depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor

from loci.memory import row
from loci.models.world import WorldModel
from loci.models.world_action import WorldActionModel
from loci.recipes.registry import recipes, rooms
from loci.streaming.policy import Policy
from loci.streaming.session import Session
from loci.study.estimates import spread
from loci.training.numerics import matmul_precision
from protocol import Output, protocol, save

SEED = 0
Spread = dict[str, float | int]


@dataclass
class Options(Output):
    rows: str = "hybrid,full,tower,window"
    policies: str = "hybrid,full"
    streams: int = 32
    robots: int = 64
    first: int = 5
    repeats: int = 15
    threads: int = 1


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    results: dict[str, dict[str, Spread]] = {}
    with matmul_precision("exact", torch.device("cpu")), torch.no_grad():
        models = {f"session, {name}": rooms(row(name)).world for name in options.rows.split(",")}
        for name, config in models.items():
            results[name] = sessions(config.build().eval(), options)
        robots = {
            f"policy, {name}": recipes()[f"cover-blocks-{name}"]().model
            for name in options.policies.split(",")
        }
        for name, config in robots.items():
            results[name] = policies(config.build().eval(), options)
        made = protocol(
            options, models | robots, seed=SEED, repeats=options.repeats,
            streams=options.streams, robots=options.robots, first=options.first,
            warm_up="each once before its turns", spread="medians and quartiles, turn by turn",
            ratios="ragged / equal lengths; one by one / ragged",
        )
    save(options, {"protocol": made, "rows": results}, "\n".join(
        f"{name:20} {what:28} {r['median']:6.2f} [{r['lo']:.2f}, {r['hi']:.2f}]"
        for name, found in results.items() for what, r in found.items()
    ))


def sessions(model: WorldModel, options: Options) -> dict[str, Spread]:
    """Ragged over equal lengths, of `read` and of `denoise`."""
    count = options.streams
    poses = torch.eye(4, dtype=torch.float64)
    mean = (1 + count) // 2

    def begun(lengths: list[int]) -> Session:
        session = model.session(count, capacity=count + 4)
        for stream, frames in enumerate(lengths):
            latents = torch.randn(1, frames, *model.latent_shape)
            session.write(latents, poses.expand(1, frames, 4, 4), [stream])
        return session

    both = begun([mean] * count), begun([1 + stream for stream in range(count)])
    ahead = poses.expand(count, model.config.chunk, 4, 4)
    noise = torch.randn(count, model.config.chunk, *model.latent_shape)
    readings = [session.read(ahead) for session in both]
    return {
        "read, ragged / equal": ratio(*(lambda s=s: s.read(ahead) for s in both), options),
        "denoise, ragged / equal": ratio(*(
            lambda s=s, r=r: s.denoise(r, noise, 0.5) for s, r in zip(both, readings, strict=True)
        ), options),
    }


def policies(model: WorldActionModel, options: Options) -> dict[str, Spread]:
    """Acts of ragged over equal episodes, and of one robot after the other over all at once."""
    count, expert = options.robots, model.config.expert
    lengths = [options.first + robot for robot in range(count)]
    mean = sum(lengths) // count
    equal, ragged = begun(model, [mean] * count), begun(model, lengths)
    noise = torch.randn(count, expert.horizon, expert.actions)
    return {
        "act, ragged / equal": ratio(
            lambda: equal.act(noise), lambda: ragged.act(noise), options
        ),
        "act, one by one / ragged": ratio(
            lambda: ragged.act(noise), lambda: one_by_one(ragged, noise), options
        ),
    }


def begun(model: WorldActionModel, lengths: list[int]) -> Policy:
    """Robots that have observed so many frames."""
    policy, shape = model.policy(len(lengths), capacity=max(lengths) + 1), model.world.latent_shape
    state = torch.zeros(1, model.config.expert.proprio)
    for robot, frames in enumerate(lengths):
        policy.observe_latents(torch.randn(1, frames, *shape), state, streams=[robot])
    return policy


def one_by_one(policy: Policy, noise: Tensor) -> None:
    for robot in range(policy.batch):
        policy.act(noise[robot : robot + 1], streams=[robot])


def ratio(base: Callable[[], Any], other: Callable[[], Any], options: Options) -> Spread:
    """The spread of other / base over pairs, each of which takes both in turns."""
    base(), other()
    found = []
    for turn in range(options.repeats):
        taken = {}
        for act in (base, other) if turn % 2 else (other, base):
            start = time.perf_counter()
            act()
            taken[act] = time.perf_counter() - start
        found.append(taken[other] / taken[base])
    return spread(found)


if __name__ == "__main__":
    main(tyro.cli(Options))
