"""A training step of the small default against plain SDPA with a dense mask.

    python benchmarks/training_step.py [--rows context-20,hybrid] [--lengths 33,65] [--json]
    python benchmarks/training_step.py --policy --rows hybrid --dtypes fp32 --out FILE
    python benchmarks/training_step.py --rows spmem,map-channels --against context-5

The model is the small world model of the rooms, or with --policy the small world-action model:
every frame of an episode is also predicted, and a chunk of actions after it.

Both steps are forward, backward and AdamW on the same batch in the same dtype, interleaved in one
process; medians and the spread between the quartiles are printed. "Plain" is what one writes first:
every token through every layer, masked attention over the whole packed sequence, all threads inside
each operation, AdamW one tensor at a time. "Loci" is what `loci train` does: the windowed form, a
part of the batch for each thread. Dtypes are fp32, and bf16 where the processor computes in it.
With --against a step of another row stands in the place of the plain one. What a map shows is drawn
once an episode, not in a step (`loci.data.survey`), and neither is it here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from loci.memory import row
from loci.models.world import WorldModel
from loci.models.world_action import WorldActionModel
from loci.recipes.policy_sizes import policy_config
from loci.recipes.registry import recipes
from loci.training.made_up import made_up
from loci.training.microbatches import Microbatches
from loci.training.numerics import matmul_precision, pick_dtype
from loci.training.task import Losses
from protocol import Output, protocol, quartiles, save

SEED = 0
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass
class Options(Output):
    rows: str = "context-20,hybrid"
    lengths: str = "33,65"  # frames an episode; the recipe's is 65
    repeats: int = 7
    dtypes: str = "fp32,auto"
    threads: int = 2
    policy: bool = False
    against: str = "plain"  # or a row


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    device, results, models = torch.device("cpu"), {}, {}
    dtypes = list(dict.fromkeys(pick_dtype(name, device) for name in options.dtypes.split(",")))
    build = robots if options.policy else rooms
    with matmul_precision("exact", device):
        for name in options.rows.split(","):
            for length in map(int, options.lengths.split(",")):
                for dtype in dtypes:
                    key = f"{name}, {length} frames, {NAMES[dtype]}"
                    torch.manual_seed(SEED)
                    task = build(name, length)
                    models[name] = task.model.config
                    plain = options.against == "plain"
                    other = None if plain else build(options.against, length)
                    results[key] = compare(task, other, dtype, options)
        made = protocol(
            options, models, dtypes=dtypes, seed=SEED, repeats=options.repeats,
            model="small policy" if options.policy else "rooms", warm_up="a turn of both",
            spread="medians and quartiles of turns; ratios turn by turn",
        )
    other = options.against
    save(options, {"protocol": made, "rows": results}, "\n".join(
        f"{name:28s} {other} {r[f'{other}_ms']:.0f} ms  loci {r['loci_ms']:.0f} ms  "
        f"ratio {r['ratio']:.2f} ({r['ratio_lo']:.2f} to {r['ratio_hi']:.2f})  "
        f"{r['tokens_per_second']:.0f} tokens/s"
        for name, r in results.items()
    ))


@dataclass
class Task:
    """A model, a batch of its episodes, the tokens in it, and the losses of a part of it, (b,)."""

    model: WorldModel | WorldActionModel
    batch: dict[str, Tensor]
    tokens: int
    loss: Callable[[dict[str, Tensor], str], Tensor]


def compare(
    task: Task, other: Task | None, dtype: torch.dtype, options: Options
) -> dict[str, float]:
    """Interleaved steps of both forms on one batch, or of two tasks."""
    trained = weights(task)
    steps = {"loci": as_we_train(task, dtype, options.threads)}
    if other is None:
        plain, alone = torch.optim.AdamW(trained, foreach=False), Microbatches(trained)
        steps["plain"] = lambda: step(task, "dense", dtype, alone, plain)
    else:
        steps[options.against] = as_we_train(other, dtype, options.threads)
    times: dict[str, list[float]] = {key: [] for key in steps}
    for repeat in range(options.repeats + 1):
        for key, run in steps.items():
            began = time.perf_counter()
            run()
            if repeat:
                times[key].append(time.perf_counter() - began)
    found = {}
    for key, taken in times.items():
        found |= quartiles(f"{key}_ms", [1000 * seconds for seconds in taken])
    ours, (theirs,) = times.pop("loci"), times.values()
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {
        **found, **quartiles("ratio", ratios),
        **quartiles("tokens_per_second", [task.tokens / seconds for seconds in ours]),
        "parameters": sum(p.numel() for p in trained),
    }


def weights(task: Task) -> list[torch.nn.Parameter]:
    return [p for p in task.model.parameters() if p.requires_grad]


def as_we_train(task: Task, dtype: torch.dtype, threads: int) -> Callable[[], None]:
    """A step of `loci train`."""
    trained = weights(task)
    parts, optimizer = Microbatches(trained, threads), torch.optim.AdamW(trained, fused=True)
    return lambda: step(task, "windowed", dtype, parts, optimizer)


def rooms(name: str, length: int) -> Task:
    """The world model of the rooms; longer episodes go in smaller batches."""
    row(name)
    config = recipes()[f"rooms-{name}"]()
    model: WorldModel = config.world.build()
    model.codec.requires_grad_(False)
    flow, span = config.world.flow, config.world.chunk
    batch = max(1, config.batch * config.data.length // length)
    starts = list(range(1, length, span))
    draw, shape = torch.Generator().manual_seed(SEED), (batch, len(starts))
    held = {
        "latents": torch.randn(batch, length, *model.latent_shape, generator=draw),
        "poses": torch.eye(4, dtype=torch.float64).repeat(batch, length, 1, 1),
        "time": flow.sample_times(shape, draw),
        "noise": torch.randn(*shape, span, *model.latent_shape, generator=draw),
    }
    surveyed = made_up(config.world, batch, length).surveyed

    def loss(part: dict[str, Tensor], form: str) -> Tensor:
        latents, time, noise = part["latents"], part["time"], part["noise"]
        target = torch.stack([latents[:, s : s + span] for s in starts], dim=1)
        noisy = flow.path(target, noise, time[:, :, None, None, None, None])
        found = {key: part[key] for key in surveyed} or None
        output = model(
            latents, noisy, time, part["poses"], starts, attention=form, surveyed=found
        )
        return flow.loss(output, target, noise, time).mean(1)

    tokens = length * (model.tokens + config.world.memory.gists)
    return Task(model, held | surveyed, batch * (tokens + len(starts) * span * model.tokens), loss)


def robots(name: str, length: int) -> Task:
    """The small world-action model: about 128 frames a batch."""
    config = policy_config("small", name)
    model = config.build()
    expert, batch, ahead = config.expert, max(1, round(128 / length)), list(range(1, length))
    draw, latent = torch.Generator().manual_seed(SEED), model.world.latent_shape
    chunks = (batch, length, expert.horizon, expert.actions)
    held = {
        "latents": torch.randn(batch, length, *latent, generator=draw),
        "noise": torch.randn(batch, length - 1, *latent, generator=draw),
        "time": config.world.flow.sample_times((batch, length - 1), draw),
        "actions": torch.randn(*chunks, generator=draw),
        "action_noise": torch.randn(*chunks, generator=draw),
        "action_time": config.flow.sample_times((batch, length), draw),
        "proprio": torch.randn(batch, length, expert.proprio, generator=draw),
    }

    def loss(part: dict[str, Tensor], form: str) -> Tensor:
        target, time, late = part["latents"][:, 1:], part["time"], part["action_time"]
        acts, eps = part["actions"], part["action_noise"]
        found, video = model(
            part["latents"], config.flow.path(acts, eps, late[..., None, None]), late,
            part["proprio"], ahead=ahead, time=time, attention=form,
            noisy=config.world.flow.path(target, part["noise"], time[..., None, None, None]),
        )
        assert video is not None
        return (config.flow.loss(found, acts, eps, late).mean(1)
                + config.world.flow.loss(video, target, part["noise"], time).mean(1))

    tokens = model.world.tokens
    each = length * (tokens + config.world.memory.gists + expert.horizon) + len(ahead) * tokens
    return Task(model, held, batch * each, loss)


def step(
    task: Task, form: str, dtype: torch.dtype, microbatches: Microbatches,
    optimizer: torch.optim.Optimizer,
) -> None:
    """One optimiser step with attention in the given form, the batch in the given microbatches."""

    def loss(part: dict[str, Tensor]) -> Losses:
        half = dtype == torch.bfloat16
        threads = microbatches.threads
        with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=threads == 1):
            return task.loss(part, form), {}

    microbatches.backward(loss, task.batch)
    optimizer.step()


if __name__ == "__main__":
    main(tyro.cli(Options))
