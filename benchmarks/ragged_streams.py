"""Streams of many lengths in one batch, against streams of one length and against one by one.

    python benchmarks/ragged_streams.py [--streams 32] [--robots 64] [--json]

- `read` and `denoise` of a session of the small world model: `streams` streams that have seen 1, 2,
  ... frames each, against as many of their mean length;
- `act` of the small policy: `robots` robots whose episodes have `first`, `first` + 1, ... chunks,
  against as many of the mean length, and against one robot after the other.

Ratios within one process, in turns, medians with their quartiles. Weights are random: what is timed
does not depend on them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import tyro
from torch import Tensor

from loci.io.checkpoint import commit
from loci.memory import row
from loci.models.world_action import WorldActionModel
from loci.recipes.registry import recipes, rooms
from loci.streaming.policy import Policy
from loci.streaming.session import Session
from loci.training.numerics import device_name, matmul_precision


@dataclass
class Options:
    rows: str = "hybrid,full,tower,window"
    policies: str = "hybrid,full"
    streams: int = 32
    robots: int = 64
    first: int = 5
    repeats: int = 15
    threads: int = 1
    json: bool = False


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, results = torch.device("cpu"), {}
    with matmul_precision("exact", device) as matmul, torch.no_grad():
        for name in options.rows.split(","):
            results[f"session, {name}"] = sessions(name, options)
        for name in options.policies.split(","):
            results[f"policy, {name}"] = policies(name, options)
    protocol = {
        **asdict(options), "commit": commit(), "device": device_name(device), "dtype": "fp32",
        "matmul": matmul, "torch": torch.__version__,
        "ratios": "ragged / equal lengths; one by one / ragged; medians and quartiles of pairs",
    }
    if options.json:
        print(json.dumps({"protocol": protocol, "results": results}, indent=1))
        return
    for name, found in results.items():
        for what, (low, middle, high) in found.items():
            print(f"{name:20} {what:28} {middle:6.2f} [{low:.2f}, {high:.2f}]")


def sessions(name: str, options: Options) -> dict[str, list[float]]:
    """Ragged over equal lengths, of `read` and of `denoise`."""
    model = rooms(row(name)).world.build().eval()
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


def policies(name: str, options: Options) -> dict[str, list[float]]:
    """Acts of ragged over equal episodes, and of one robot after the other over all at once."""
    model = recipes()[f"cover-blocks-{name}"]().model.build().eval()
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


def ratio(
    base: Callable[[], Any], other: Callable[[], Any], options: Options
) -> list[float]:
    """Quartiles of other / base over pairs, each of which takes both in turns."""
    base(), other()
    found = []
    for turn in range(options.repeats):
        taken = {}
        for act in (base, other) if turn % 2 else (other, base):
            start = time.perf_counter()
            act()
            taken[act] = time.perf_counter() - start
        found.append(taken[other] / taken[base])
    return [round(value, 3) for value in statistics.quantiles(found, n=4)]


if __name__ == "__main__":
    main(tyro.cli(Options))
