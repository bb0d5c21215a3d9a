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
    number: int, streams: Sequence[TokenStream], experts: list[tuple[Trunk, list[int]]],
    attend: AttentionFn, states: StateHook | None, xs: list[Tensor],
) -> list[Tensor]:
    layer = _Layer(number, streams, experts, attend, states, xs)
    layer.enter(len(experts) - 1)
    return [
        x if stream.after is None else stream.of_frames(x, partial(stream.after, number))
        for x, stream in zip(layer.xs, streams, strict=True)
    ]


class _Layer:
    """One block of every expert. Each runs as a module of its own, although they meet in the
    middle: the last expert's block is entered first, and asks for its attention within; there the
    one before it is entered, and so on. Clean frames, which advance states, go through the first
    expert, and are done before another's tokens read.

    Methods, not functions within a function: one of those that calls itself is a reference cycle,
    and keeps a layer's tensors until the garbage collector comes by.
    """

    def __init__(
        self, number: int, streams: Sequence[TokenStream], experts: list[tuple[Trunk, list[int]]],
        attend: AttentionFn, states: StateHook | None, xs: list[Tensor],
    ):
        self.number, self.streams, self.experts = number, streams, experts
        self.attend, self.states, self.xs = attend, states, xs.copy()
        self.parts: list[QKV | None] = [None] * len(streams)
        self.seen: list[Tensor | None] = []

    def enter(self, place: int) -> None:
        """Run the block of expert number `place`, and within it those of the experts before."""
        trunk, members = self.experts[place]
        xs = trunk.blocks[self.number](
            [self.xs[number] for number in members],
            [self.streams[number] for number in members],
            partial(self.joint, place), self.number,
            None if self.states is None else partial(self.carried, self.states, members),
            self.number == trunk.sizes.num_layers - 1,
        )
        for number, x in zip(members, xs, strict=True):
            self.xs[number] = x

    def joint(self, place: int, qkv: list[QKV]) -> list[Tensor | None]:
        """What an expert's tokens saw of the keys and values of all."""
        members = self.experts[place][1]
        for number, part in zip(members, qkv, strict=True):
            self.parts[number] = part
        if place:
            self.enter(place - 1)
        else:
            parts = [part for part in self.parts if part is not None]
            self.seen = self.attend(self.number, parts)
        return [self.seen[number] for number in members]

    def carried(
        self, states: StateHook, members: list[int], member: int, x: Tensor, rotary: Tensor
    ) -> Tensor | None:
        """What the memory adds to one of an expert's streams."""
        return states(self.number, members[member], x, rotary)
