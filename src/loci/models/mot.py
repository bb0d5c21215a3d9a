"""A mixture of transformers: experts of their own widths that meet in one attention.

Every expert has its own projections, norms, cross-attention and feed-forward; all have the same
number of layers and the same heads, so that in each layer one softmax runs over the joined keys
and values (MemoryWAM, arXiv 2606.20562, Section 3). Who sees whom is decided by `attend`, what is
carried from frame to frame by `recall`: an executor (`packed.py` for training, `session.py` for
streams) hands them in. A video transformer by itself is a mixture of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from loci.attention.cross import Text
from loci.attention.dense import AttentionFn
from loci.attention.rotary import RotaryCosSin
from loci.memory.recurrent import StateHook
from loci.models.trunk import Segment, Trunk


@dataclass(frozen=True)
class Lane:
    """A segment, the expert that it goes through and the text that this expert reads."""

    trunk: Trunk
    segment: Segment
    text: Text | None = None


def run(
    lanes: Sequence[Lane], attend: AttentionFn, recall: StateHook | None = None,
    recompute: bool = False,
) -> list[Tensor]:
    """All blocks over all lanes side by side. Tokens (B, F, P, D) of each lane out, F of them that
    are heard.

    recompute: keep nothing inside a block for the backward pass, and compute it again there.
    """
    segments = [lane.segment for lane in lanes]
    xs = [segment.x for segment in segments]
    turns = [(s.angles.cos().float(), s.angles.sin().float()) for s in segments]
    if recall is not None:
        xs = recall(-1, xs, turns)
    es = [
        lane.trunk.modulate(lane.segment.time)[1] if lane.segment.six is None else lane.segment.six
        for lane in lanes
    ]
    for layer in range(lanes[0].trunk.sizes.num_layers):
        step = partial(_block, layer, lanes, es, turns, attend, recall)
        xs = checkpoint(step, xs, use_reentrant=False) if recompute else step(xs)
    return xs


def _block(
    layer: int, lanes: Sequence[Lane], es: list[Tensor], turns: list[RotaryCosSin],
    attend: AttentionFn, recall: StateHook | None, xs: list[Tensor],
) -> list[Tensor]:
    """One block over all lanes."""
    segments = [lane.segment for lane in lanes]
    blocks = [lane.trunk.blocks[layer] for lane in lanes]
    xs = [
        x if s.motion is None else block.camera(x, s.motion, s.span)
        for block, x, s in zip(blocks, xs, segments, strict=True)
    ]
    sixes = [block.six(e) for block, e in zip(blocks, es, strict=True)]
    last = layer == lanes[0].trunk.sizes.num_layers - 1
    qkv = [
        block.project(x, six, turn, queries=not (last and segment.silent))
        for block, x, six, turn, segment in zip(blocks, xs, sixes, turns, segments, strict=True)
    ]
    seen = attend(layer, qkv)
    if last:
        xs = [s.read(x) for s, x in zip(segments, xs, strict=True)]
        seen = [y if y is None else s.read(y, 2) for s, y in zip(segments, seen, strict=True)]
        sixes = [[s.read(m) for m in six] for s, six in zip(segments, sixes, strict=True)]
        turns = [(s.read(c), s.read(n)) for s, (c, n) in zip(segments, turns, strict=True)]
    xs = [
        x if y is None else block.attended(x, y, six, turn)
        for block, x, y, six, turn in zip(blocks, xs, seen, sixes, turns, strict=True)
    ]
    if recall is not None:
        xs = recall(layer, xs, turns)
    return [
        x if y is None else block.update(x, six, lane.text, layer)
        for block, x, y, six, lane in zip(blocks, xs, seen, sixes, lanes, strict=True)
    ]
