"""One long episode, truly played: milliseconds of every observation and act, chunk by chunk.

    python benchmarks/long_episode.py [--hold 332] [--json] [--out FILE] [--plot SVG]

The policy that ships for Put Back Block plays one episode of about 2,000 chunks, in which the fact
is held `hold` times longer than in training. Nothing stands in for its history: what is timed is
what a robot would wait for. Beside it, in turns, a policy with the same weights that remembers its
window alone sees the same frames and acts from the same noise; its actions are thrown away. The
difference is what the anchor and the gists cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from loci.io.bundled import resolve_checkpoint
from loci.io.files import atomic_write
from loci.io.progress import Progress
from loci.io.timing import milliseconds
from loci.memory import SlidingWindow
from loci.models.world_action import WorldActionModel
from loci.report.families import COLORS
from loci.report.svg import STYLE, svg
from loci.streaming.policy import Policy
from loci.study.estimates import spread
from loci.study.tabletop.closed_loop import Loop, play
from loci.training.numerics import matmul_precision, pick_device
from loci.worlds.tabletop.env import Tabletop
from loci.worlds.tabletop.tasks import make_task
from protocol import Output, protocol, save

ROWS = ("hybrid", "window")
PART = 100  # chunks of the episode that are summed up together


@dataclass
class Options(Output):
    checkpoint: str = "put-back-block-hybrid"
    task: str = "put-back-block"
    hold: int = 332  # 2,010 chunks at most
    seed: int = 0
    plot: Path | None = None


class Clocked(Policy):
    """A policy whose observations and acts are timed, and another beside it that does the same."""

    def __init__(self, model: WorldActionModel, beside: Policy, progress: Progress):
        super().__init__(model)
        self.beside, self.progress = beside, progress
        self.times: dict[str, dict[str, list[float]]] = {
            act: {row: [] for row in ROWS} for act in ("observe", "act")
        }
        self.tokens: list[int] = []  # held at each act

    def observe(self, *seen: Any, **named: Any) -> None:
        self._both("observe", lambda policy: Policy.observe(policy, *seen, **named))

    def act(self, *noise: Any, **named: Any) -> Tensor:
        self.progress.advance()
        self.tokens.append(self.stream.tokens())
        return self._both("act", lambda policy: Policy.act(policy, *noise, **named))[0]

    def _both(self, act: str, do: Callable[[Policy], Any]) -> list[Any]:
        """What comes of it, by rows. The one that begins changes from chunk to chunk."""
        found: list[Any] = [None, None]
        policies = (self, self.beside)
        turn = len(self.times[act][ROWS[0]]) % 2
        for n in (turn, 1 - turn):

            def once(n: int = n) -> None:
                found[n] = do(policies[n])

            self.times[act][ROWS[n]].append(milliseconds(once, self.stream.device))
        return found


def main(options: Options) -> None:
    device = pick_device()
    model = WorldActionModel.load(resolve_checkpoint(options.checkpoint)).to(device)
    task = make_task(options.task, options.hold)
    env = Tabletop(task)
    less = remembering_less(model)
    with matmul_precision("exact", device), Progress("chunks", task.chunks) as progress:
        policy = Clocked(model, less.policy(1), progress)
        line = play(model, lambda: env, Loop(first=options.seed), [0], policy)[0]
        made = protocol(
            options, dict(zip(ROWS, (model.config, less.config), strict=True)), device=device,
            seed=options.seed, cases=1, checkpoint=options.checkpoint, task=task.to_dict(),
            memory=model.config.world.memory.to_dict(), part=PART, steps=model.config.steps,
            turns="same weights, same frames, in turns", warm_up="the first chunk does not count",
            spread="medians, quartiles, 99th percentile and largest of the chunks of each part",
        )
    parts = summed_up(policy)
    if options.plot is not None:
        atomic_write(options.plot, plot(parts))
    text = [f"{line['chunks']} chunks, success {line['success']} {line['failure']}"]
    for part in parts:
        cells = [f"{act} {row} {part[act][row]['median']:.1f} ms, 99 % {part[act][row]['p99']:.1f}"
                 for act in ("observe", "act") for row in ROWS]
        text.append(f"{part['chunks'][0]:5} to {part['chunks'][1]:5}  {part['tokens']:5} tokens  "
                    + "; ".join(cells))
    save(options, {"protocol": made, "episode": line, "parts": parts}, "\n".join(text))


def remembering_less(model: WorldActionModel) -> WorldActionModel:
    """The same weights with the window alone."""
    world = model.config.world
    memory = SlidingWindow(window=world.memory.window)
    other = replace(model.config, world=replace(world, memory=memory)).build().eval()
    other.world.dit, other.expert = model.world.dit, model.expert
    other.actions, other.proprio = model.actions, model.proprio
    return other.to(next(model.parameters()).device)


def summed_up(policy: Clocked) -> list[dict[str, Any]]:
    """Of each hundred chunks, and of what is left of them, by acts and rows, and the tokens held in
    the end. The first chunk, which pays for what is made once, is not among them."""
    count = len(policy.tokens)
    parts = []
    for start in range(0, count, PART):
        stop = min(start + PART, count)
        part: dict[str, Any] = {"chunks": [start + 1, stop], "tokens": policy.tokens[stop - 1]}
        for act, rows in policy.times.items():
            part[act] = {}
            for row, taken in rows.items():
                chosen = taken[max(start, 1) : stop]
                part[act][row] = spread(chosen) | {
                    "p99": float(np.percentile(chosen, 99)), "max": max(chosen),
                }
            turns = zip(*(rows[row][max(start, 1) : stop] for row in ROWS), strict=True)
            part[act]["ratio"] = spread([ours / theirs for ours, theirs in turns])
        parts.append(part)
    return parts


def plot(parts: list[dict[str, Any]]) -> str:
    """Milliseconds against the chunk of the episode: medians, quartiles, and dotted 99 of 100."""
    middles = [sum(part["chunks"]) / 2 for part in parts]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        titles = {"observe": "observe a frame, ms", "act": "act: 10 steps, ms"}
        for axis, (act, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            for row in ROWS:
                fill = COLORS[{"hybrid": "gists"}.get(row, "recent frames")]
                costs = [part[act][row] for part in parts]
                axis.plot(middles, [c["median"] for c in costs], lw=1.5, color=fill, label=row)
                axis.fill_between(middles, [c["lo"] for c in costs], [c["hi"] for c in costs],
                                  color=fill, alpha=0.2, lw=0)
                axis.plot(middles, [c["p99"] for c in costs], ":", lw=1.1, color=fill)
            axis.set(title=title, xlabel="chunks played (16 control steps each)", ylim=(0, None))
        axis.legend()
        return svg(figure, "A long episode")


if __name__ == "__main__":
    main(tyro.cli(Options))
