"""The tabletop's mosaic (head and two wrist cameras) and its control step, in milliseconds.

    python benchmarks/tabletop.py [--episodes 2] [--json] [--out FILE]

The pictures are those that the expert sees at the ends of its chunks; a step is the world without
pictures. Sizes are interleaved in one process on one thread; the medians over pictures and the
quartiles are printed, once as time on the clock and once as time of the processor, which other
processes on the machine disturb less.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy starts its own

import mujoco
import torch
import tyro

from loci.geometry import Camera
from loci.worlds.tabletop.env import Tabletop
from loci.worlds.tabletop.table import CHUNK
from loci.worlds.tabletop.tasks import TASKS, make_task
from loci.worlds.tabletop.view import HEAD, TableView
from protocol import Output, protocol, quartiles, save

SIZES = {
    f"{3 * height // 2}x{width}": Camera(height=height, width=width, fov=HEAD.fov)
    for height, width in ((64, 80), (128, 160), (256, 320))
}
Times = dict[str, list[tuple[float, float]]]


@dataclass
class Options(Output):
    episodes: int = 2  # of each task


def main(options: Options) -> None:
    times: Times = {name: [] for name in (*SIZES, "step")}
    for name in TASKS:
        env = Tabletop(name)
        for seed in range(options.episodes):
            measure(env, seed, times)
    found = {name: summary(values) for name, values in times.items()}
    tasks = {name: make_task(name).to_dict() for name in TASKS}
    made = protocol(
        options, {**SIZES, "step": {"tasks": tasks}}, seed=0, cases=len(TASKS) * options.episodes,
        cameras={name: camera.to_dict() for name, camera in SIZES.items()}, tasks=tasks,
        mujoco=mujoco.__version__, dtypes=(torch.float64, torch.float32),
        spread="medians and quartiles of pictures or control steps",
    )
    save(options, {"protocol": made, "ms": found}, "\n".join(
        f"{name:8} clock {row['clock']:6.2f} ({row['clock_lo']:.2f} to {row['clock_hi']:.2f})  "
        f"processor {row['processor']:6.2f} ms  n {row['n']}"
        for name, row in found.items()
    ))


def measure(env: Tabletop, seed: int, times: Times) -> None:
    """Time one episode of the expert."""
    env.begin(seed)
    views = {name: TableView(env.table.layout, head) for name, head in SIZES.items()}
    expert = env.task.expert(env.table, lambda question: question.would(env.cue))
    while not env.over:
        if env.table.state.step % CHUNK == 0:
            for name, view in views.items():
                timed(lambda v=view: v.render(env.table.state, env.table.lamp), times[name])
        action = next(expert)
        timed(lambda a=action: env.advance(a), times["step"])


def timed(act: Callable[[], object], into: list[tuple[float, float]]) -> None:
    began, spent = time.perf_counter(), time.process_time()
    act()
    into.append((1000 * (time.perf_counter() - began), 1000 * (time.process_time() - spent)))


def summary(values: list[tuple[float, float]]) -> dict[str, float]:
    clock, processor = zip(*values, strict=True)
    return {**quartiles("clock", clock), **quartiles("processor", processor), "n": len(values)}


if __name__ == "__main__":
    main(tyro.cli(Options))
