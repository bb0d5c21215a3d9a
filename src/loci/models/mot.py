"""A mixture of transformers: experts of their own widths that meet in one attention.

Every expert has its own projections, norms, cross-attention and feed-forward; all have the same
number of layers and the same heads, so that in each layer one softmax runs over the joined keys
and values (MemoryWAM, arXiv 2606.20562, Section 3). Who sees whom and what is carried from frame to
frame is evidence (`memory/stores.py`), which the executors, a stream or a packed episode, bring. A
video transformer by itself is a mixture of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from loci.attention.dense import QKV, AttentionFn
from loci.attention.rotary import RotaryCosSin
from loci.memory.recurrent import StateHook
from loci.models.trunk import TokenStream, Trunk, carry


def run(
    streams: Sequence[TokenStream], attend: AttentionFn, states: StateHook | None = None,
    recompute: bool = False,
) -> list[Tensor]:
    """All blocks over all streams side by side. Tokens (B, F, P, D) of each stream out, of those
    runs that somebody reads.

    recompute: keep nothing inside a block for the backward pass, and compute it again there.
    """
    experts: dict[Trunk, list[int]] = {}
    for number, stream in enumerate(streams):
        experts.setdefault(stream.trunk, []).append(number)
    xs = [stream.x for stream in streams]
    if states is not None:
        xs = [
            carry(stream, x, number, partial(states, -1))
            for number, (stream, x) in enumerate(zip(streams, xs, strict=True))
        ]
    for layer in range(streams[0].trunk.sizes.num_layers):
        step = partial(_layer, layer, streams, list(experts.items()), attend, states)
        xs = checkpoint(step, xs, use_reentrant=False) if recompute else step(xs)
    return xs


def _layer(
    layer: int, streams: Sequence[TokenStream], experts: list[tuple[Trunk, list[int]]],
    attend: AttentionFn, states: StateHook | None, xs: list[Tensor],
) -> list[Tensor]:
    """One block of every expert. The last expert's block is entered first, and asks for its
    attention within; there the one before it is entered, and so on: so each runs as a module of its
    own, although they meet in the middle. Clean frames, which advance states, go through the first
    expert, and are done before another's tokens read."""
    last = layer == streams[0].trunk.sizes.num_layers - 1
    parts: list[QKV | None] = [None] * len(streams)
    seen: list[Tensor | None] = []
    done = xs.copy()

    def enter(place: int) -> None:
        trunk, members = experts[place]

        def joint(qkv: list[QKV]) -> list[Tensor | None]:
            for number, part in zip(members, qkv, strict=True):
                parts[number] = part
            if place:
                enter(place - 1)
            else:
                seen.extend(attend(layer, [part for part in parts if part is not None]))
            return [seen[number] for number in members]

        def read(number: int, x: Tensor, rotary: RotaryCosSin) -> Tensor | None:
            return None if states is None else states(layer, members[number], x, rotary)

        tokens = trunk.blocks[layer](
            [xs[number] for number in members], [streams[number] for number in members], joint,
            layer, None if states is None else read, last,
        )
        for number, x in zip(members, tokens, strict=True):
            done[number] = x

    enter(len(experts) - 1)
    return [
        x if stream.after is None else stream.of_frames(x, partial(stream.after, layer))
        for x, stream in zip(done, streams, strict=True)
    ]
