"""Attention of the blocks that training attends in, against torch's fused kernel.

    python benchmarks/block_attention.py [--repeats 15] [--dtypes fp32,auto] [--json] [--out FILE]

Blocks are those of the tabletop's rows in four episodes of 64 frames: `blocks` on a batch
dimension, four heads, so many queries and keys each, half of which are hidden. Forward and backward
on one thread, as a part of a batch has it, in turns; medians, and the quartiles of the ratio.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from loci.attention.block import attend
from loci.training.numerics import matmul_precision, pick_dtype
from protocol import Output, protocol, quartiles, save

HEADS, WIDTH, SEED = 4, 32, 0
# Of the row: blocks, queries and keys; frames with their gists, or chunks of actions.
BLOCKS = {
    "window, frames": (32, 40, 60), "window, actions": (32, 32, 92),
    "hybrid, frames": (8, 192, 328), "hybrid, actions": (16, 64, 312),
    "full, frames": (4, 320, 640), "full, actions": (4, 256, 1536),
}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass
class Options(Output):
    repeats: int = 15
    dtypes: str = "fp32,auto"


def main(options: Options) -> None:
    torch.set_num_threads(1)
    device, rows = torch.device("cpu"), {}
    dtypes = list(dict.fromkeys(pick_dtype(name, device) for name in options.dtypes.split(",")))
    with matmul_precision("exact", device):
        for name, sizes in BLOCKS.items():
            for dtype in dtypes:
                rows[f"{name}, {NAMES[dtype]}"] = compare(sizes, dtype, options.repeats)
        blocks = {
            name: {"sizes": sizes, "heads": HEADS, "width": WIDTH} for name, sizes in BLOCKS.items()
        }
        made = protocol(
            options, blocks, dtypes=dtypes, seed=SEED, repeats=options.repeats, heads=HEADS,
            width=WIDTH, warm_up="a turn of both",
            spread="medians and quartiles of turns; ratios turn by turn",
        )
    save(options, {"protocol": made, "rows": rows}, "\n".join(
        f"{name:24s} {r['blocks']} x {r['queries']} x {r['keys']}  fused {r['fused_ms']:.2f} ms  "
        f"ours {r['ours_ms']:.2f} ms  ratio {r['ratio']:.2f}"
        for name, r in rows.items()
    ))


def compare(
    sizes: tuple[int, int, int], dtype: torch.dtype, repeats: int
) -> dict[str, int | float]:
    """Both on the same blocks, in turns."""
    (blocks, queries, keys), draw = sizes, torch.Generator().manual_seed(SEED)
    q, k, v = (
        torch.randn(blocks, count, HEADS, WIDTH, generator=draw).to(dtype).transpose(1, 2)
        .requires_grad_()
        for count in (queries, keys, keys)
    )
    seen = torch.rand(blocks, 1, queries, keys, generator=draw) < 0.5
    seen[..., 0] = True
    bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    back = torch.randn(blocks, queries, HEADS, WIDTH, generator=draw).to(dtype).transpose(1, 2)

    def seconds(output: Tensor, began: float) -> float:
        torch.autograd.grad(output, (q, k, v), back)
        return time.perf_counter() - began

    turns = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        fused = seconds(F.scaled_dot_product_attention(q, k, v, seen), began)
        began = time.perf_counter()
        turns.append((fused, seconds(attend(q, k, v, bias), began)))
    return {
        "blocks": blocks, "queries": queries, "keys": keys,
        **quartiles("fused_ms", [1000 * fused for fused, _ in turns[1:]]),
        **quartiles("ours_ms", [1000 * ours for _, ours in turns[1:]]),
        **quartiles("ratio", [fused / ours for fused, ours in turns[1:]]),
    }


if __name__ == "__main__":
    main(tyro.cli(Options))
