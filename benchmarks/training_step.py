"""A training step of the small default against plain SDPA with a dense mask.

    python benchmarks/training_step.py [--rows context-20,hybrid] [--lengths 33,65] [--json]

Both steps are forward, backward and AdamW on the same batch in fp32, interleaved in one process;
medians and the spread between the quartiles are printed. "Plain" is what one writes first: every
token through every layer, masked attention over the whole packed sequence, all threads inside
each operation, AdamW one tensor at a time. "Loci" is what `loci train` does: the windowed form, a
part of the batch for each thread.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass

import torch
import tyro

from loci.checkpoint import commit
from loci.memory import row
from loci.models.world import WorldModel
from loci.packed import packed_pass
from loci.training.numerics import cpu_features, device_name
from loci.training.parts import Parts
from loci.training.recipes import recipes


@dataclass
class Options:
    rows: str = "context-20,hybrid"
    lengths: str = "33,65"  # frames an episode; the recipe's is 65
    repeats: int = 7
    threads: int = 2
    json: bool = False


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    results = {}
    for name in options.rows.split(","):
        row(name)
        for length in map(int, options.lengths.split(",")):
            results[f"{name}, {length} frames"] = compare(name, length, options)
    report = {
        "protocol": {"threads": options.threads, "torch": torch.__version__, "dtype": "fp32",
                     "device": device_name(torch.device("cpu")), "cpu": cpu_features(),
                     "commit": commit(), "repeats": options.repeats},
        "rows": results,
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for name, result in results.items():
        spread = f"{result['ratio_lo']:.2f} to {result['ratio_hi']:.2f}"
        print(f"{name:22s} plain {result['plain_ms']:.0f} ms  loci {result['loci_ms']:.0f} ms  "
              f"ratio {result['ratio']:.2f} ({spread})  {result['tokens_per_second']:.0f} tokens/s")


def compare(name: str, length: int, options: Options) -> dict[str, float]:
    """Interleaved steps of both forms on one batch; longer episodes go in smaller batches."""
    config = recipes()[f"rooms-{name}"]()
    torch.manual_seed(0)
    model: WorldModel = config.world.build()
    model.codec.requires_grad_(False)
    chunk, batch = config.world.chunk, max(1, config.batch * config.length // length)
    starts = list(range(1, length, chunk))
    draw = torch.Generator().manual_seed(1)
    shape = (batch, len(starts))
    noise = torch.randn(*shape, chunk, *model.latent_shape, generator=draw)
    held = {
        "latents": torch.randn(batch, length, *model.latent_shape, generator=draw),
        "poses": torch.eye(4, dtype=torch.float64).repeat(batch, length, 1, 1),
        "time": config.world.flow.sample_times(shape, draw), "noise": noise,
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    plain = torch.optim.AdamW(trained, foreach=False)
    loci = torch.optim.AdamW(trained, fused=True)
    ours = Parts(options.threads)
    steps = {
        "plain": lambda: step(model, held, starts, "dense", Parts(1), trained, plain),
        "loci": lambda: step(model, held, starts, "windowed", ours, trained, loci),
    }
    times: dict[str, list[float]] = {key: [] for key in steps}
    for repeat in range(options.repeats + 1):
        for key, run in steps.items():
            began = time.perf_counter()
            run()
            if repeat:
                times[key].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(times["plain"], times["loci"], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    tokens = batch * (
        length * (model.tokens + config.world.memory.gists) + len(starts) * chunk * model.tokens
    )
    seconds = statistics.median(times["loci"])
    return {
        "plain_ms": 1000 * statistics.median(times["plain"]), "loci_ms": 1000 * seconds,
        "ratio": statistics.median(ratios), "ratio_lo": quartiles[0], "ratio_hi": quartiles[2],
        "tokens_per_second": tokens / seconds,
    }


def step(model, batch, starts, form, parts, trained, optimizer) -> None:
    """One optimiser step with attention in the given form, the batch in the given parts."""
    flow, span = model.config.flow, model.config.chunk

    def loss(part):
        latents, time, noise = part["latents"], part["time"], part["noise"]
        target = torch.stack([latents[:, s : s + span] for s in starts], dim=1)
        noisy = flow.path(target, noise, time[:, :, None, None, None, None])
        output = packed_pass(model, latents, noisy, time, part["poses"], starts, attention=form)
        return flow.loss(output, target, noise, time).mean(), {}

    parts.backward(loss, batch, trained)
    optimizer.step()


if __name__ == "__main__":
    main(tyro.cli(Options))
