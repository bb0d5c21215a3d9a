"""The streaming cache: what a batch of streams keeps of its past.

One preallocated buffer a layer, heads before sequence, keys already rotated, so that their order
is free:

    [ gists in a window | recent frames (a ring) | kept for ever: anchors and gists -> | scratch ]

The ring fills from the right, so that what is alive is always one slice. Actions that were carried
out between two frames stay for ever too, before what stays of the later frame. Gists that are
summed up stand on a stack instead, behind the anchors: a new set takes the place of those that it
sums up.
Which tokens go where follows from the rule (`Memory.plan`); every slot carries the coordinates of
its token, so that what the cache shows can be checked against the rule at any time. Tokens being
denoised use the scratch behind the last kept one: it belongs to nobody, and no commit ever looks at
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from loci.errors import LociError
from loci.rules.rule import Coords, Kind, Plan, Stack

FIELDS = ("frame", "row", "col", "kind")
# Buffers are made and renewed under this, whatever the caller's mode is: a stream begun in
# inference mode can go on outside it, and a graph that somebody else keeps is never cut.
ordinary = partial(torch.inference_mode, mode=False)


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each frame stand, by arithmetic alone. L tokens and M gists a frame, and
    n executed actions between two frames, where these are kept."""

    plan: Plan
    tokens: int
    gists: int
    actions: int = 0

    def __post_init__(self) -> None:
        if self.stack and self.plan.clean.recent is None:
            raise LociError(
                "frames that stay for ever and gists that are summed up cannot both be last in the "
                "cache; give the memory a window, or keep every gist"
            )
        if self.actions and (self.stack or self.plan.executed.recent is not None):
            raise LociError(
                "executed actions stay for ever, last in the cache; let the rule show all of them, "
                "and sum up no gists"
            )

    @property
    def stack(self) -> Stack | None:
        """How gists are summed up, if they are."""
        return self.plan.gist if isinstance(self.plan.gist, Stack) else None

    @property
    def rings(self) -> int:
        """Slots in front of the part that grows; behind a stack, anchors would be in its way."""
        whole = (self.plan.clean.recent or 0) + (self.plan.clean.anchors if self.stack else 0)
        return (self.plan.gist.recent or 0) * self.gists + whole * self.tokens

    def _kept(self, frames: int) -> int:
        """Slots in use of the part that grows after `frames` frames."""
        clean, gist = self.plan.clean, self.plan.gist
        if self.stack:
            return self.stack.held(frames) * self.gists
        whole = frames if clean.recent is None else min(frames, clean.anchors)
        marks = frames if gist.recent is None else min(frames, gist.anchors)
        return whole * self.tokens + marks * self.gists + max(frames - 1, 0) * self.actions

    def end(self, frames: int) -> int:
        """One past the last slot in use after `frames` frames: where the scratch begins."""
        return self.rings + self._kept(frames)

    def room(self, frames: int) -> int:
        """The most slots in use on the way to `frames` frames."""
        if self.stack:
            return self.rings + self.stack.peak(frames) * self.gists
        return self.end(frames)

    def sums_up(self, frame: int) -> bool:
        """Whether a frame that is about to be written still sees tokens that it evicts."""
        return self.stack is not None and (frame + 1) % self.stack.base == 0

    def place(self, frame: int) -> list[tuple[Kind, int, int]]:
        """(kind, first slot, count) for each part of a frame that is about to be written, the
        actions that led to it first."""
        clean, gist = self.plan.clean, self.plan.gist
        stays = clean.recent is None or frame < clean.anchors
        kept, parts = self.end(frame), []
        if self.actions and frame:
            parts.append((Kind.EXECUTED, kept, self.actions))
            kept += self.actions
        if stays and self.stack:
            # From the right, as in the ring, so that what is alive is one slice from the start.
            parts.append((Kind.CLEAN, self.rings - (frame + 1) * self.tokens, self.tokens))
        elif stays:
            parts.append((Kind.CLEAN, kept, self.tokens))
            kept += self.tokens
        elif clean.recent:
            slot = _ring(frame, clean.anchors, clean.recent, self.tokens)
            slot += (gist.recent or 0) * self.gists
            parts.append((Kind.CLEAN, slot, self.tokens))
        if self.stack:
            # On top of all that it does not sum up.
            parts.append((Kind.GIST, self.end(frame + 1) - self.gists, self.gists))
        elif self.gists:
            if gist.recent is None or frame < gist.anchors:
                parts.append((Kind.GIST, kept, self.gists))
            elif gist.recent:
                slot = _ring(frame, gist.anchors, gist.recent, self.gists)
                parts.append((Kind.GIST, slot, self.gists))
        return parts


def _ring(frame: int, anchors: int, recent: int, size: int) -> int:
    """First slot of a frame in a ring that fills from the right and then starts over."""
    return (recent - 1 - (frame - anchors) % recent) * size


class Cache:
    """Keys and values of `streams` streams in `layers` layers.

    keys, values: for each layer (B, N, S, d). slots: (B, S, 4) frame, row, column and kind of the
    token in each slot, kind -1 where it is free; always on the CPU, where masks and plans are
    worked out. written: frames each stream has seen.
    """

    @ordinary()
    def __init__(
        self, layout: Layout, layers: int, streams: int, heads: int, width: int, slots: int,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ):
        self.layout = layout
        shape = (streams, heads, slots, width)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.slots = torch.full((streams, slots, len(FIELDS)), int(Kind.EMPTY))
        self.written = [0] * streams

    @ordinary()
    def reserve(self, slots: int) -> None:
        """Make room for `slots` slots, at least doubling, so that growth stays rare."""
        have = self.slots.shape[1]
        if slots <= have:
            return
        more = max(slots, 2 * have) - have
        self.keys = [pad(k, (0, 0, 0, more)) for k in self.keys]
        self.values = [pad(v, (0, 0, 0, more)) for v in self.values]
        self.slots = pad(self.slots, (0, 0, 0, more), value=int(Kind.EMPTY))

    def coords(self, stream: int, stop: int | None = None) -> Coords:
        """Coordinates of the slots before `stop`, free ones (of kind -1) included.

        Default: all that the stream uses.
        """
        stop = self.layout.end(self.written[stream]) if stop is None else stop
        # A copy: the coordinates stay what they are when the slots are given to others.
        frame, row, col, kind = self.slots[stream, :stop].clone().unbind(-1)
        return Coords(frame, row, col, kind, frame, torch.full_like(frame, -1))

    def mark(self, streams: slice, coords: Coords, frame: int) -> list[tuple[slice, int]]:
        """Give a frame its slots (evicting whoever stood there) and say which token goes where.

        coords: tokens (S,), those of one frame and kind side by side: all of the frame's own, or
        the actions that led to it, which bear the number of the frame before. Returns (tokens,
        first slot) pairs.
        """
        executed = bool((coords.kind == int(Kind.EXECUTED)).all())
        number, moves = frame - executed, []
        for kind, start, count in self.layout.place(frame):
            if (kind == Kind.EXECUTED) != executed:
                continue  # it goes through the network in a pass of its own
            begin = int(((coords.frame == number) & (coords.kind == int(kind))).nonzero()[0, 0])
            which = slice(begin, begin + count)
            values = torch.stack([getattr(coords, name)[which] for name in FIELDS], dim=-1)
            self.slots[streams, start : start + count] = values
            moves.append((which, start))
        return moves

    @ordinary()
    def fill(self, coords: Coords, frames: int) -> None:
        """Stand as if `frames` frames had been written to every stream, which are empty: slots and
        counts are those of a true history, keys and values are noise.

        coords: the tokens of a first frame. For measuring costs, which do not depend on what keys
        and values hold.
        """
        self.reserve(self.layout.room(frames))
        for frame in range(frames):
            self.mark(slice(None), coords.later(frame), frame)
        self.written = [frames] * len(self.written)
        for buffer in (*self.keys, *self.values):
            buffer[:, :, : self.layout.end(frames)].normal_()

    def put(self, layer: int, streams: slice, start: int, keys: Tensor, values: Tensor) -> None:
        """Overwrite slots from `start` on: in place, or in a copy where a gradient flows."""
        stop = start + keys.shape[2]
        for buffers, new in ((self.keys, keys), (self.values, values)):
            if new.requires_grad or buffers[layer].requires_grad:
                # Earlier passes have saved this buffer for their backward, so it must stay as it
                # is; and a write without gradients keeps those of the other slots.
                with ordinary():
                    buffers[layer] = buffers[layer].clone()
                    buffers[layer][streams, :, start:stop] = new
            else:
                buffers[layer][streams, :, start:stop] = new

    def committed(self) -> dict[str, Tensor]:
        """All that counts, free slots and scratch zeroed, so that equal memories compare equal."""
        ends = torch.tensor([self.layout.end(n) for n in self.written])
        stop = int(ends.max())
        slots = self.slots[:, :stop].clone()
        slots[torch.arange(stop) >= ends[:, None]] = int(Kind.EMPTY)
        tree = {"slots": slots, "written": torch.tensor(self.written)}
        free = (slots[..., -1] < 0)[:, None, :, None].to(self.keys[0].device)
        for layer, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            tree[f"keys.{layer}"] = k[:, :, :stop].masked_fill(free, 0)
            tree[f"values.{layer}"] = v[:, :, :stop].masked_fill(free, 0)
        return tree

    def restore(self, tree: Mapping[str, Tensor]) -> None:
        """Take over a `committed` tree (copied). LociError, and nothing changed, if it does not
        fit."""
        self.check(tree)
        stop = tree["slots"].shape[1]
        self._leave_graph()
        self.reserve(stop)
        self.written = [int(n) for n in tree["written"]]
        self.slots.fill_(int(Kind.EMPTY))
        self.slots[:, :stop] = tree["slots"]
        for layer in range(len(self.keys)):
            self.put(layer, slice(None), 0, tree[f"keys.{layer}"], tree[f"values.{layer}"])

    def check(self, tree: Mapping[str, Tensor]) -> None:
        """LociError where a `committed` tree does not fit these streams."""
        missing = {"slots", "written", f"keys.{len(self.keys) - 1}"} - tree.keys()
        if missing or f"keys.{len(self.keys)}" in tree:
            raise LociError("this is no memory of this model; restore it where it was taken")
        streams, heads, _, width = self.keys[0].shape
        batch, slots = tree["slots"].shape[:2]
        if batch != streams:
            raise LociError(
                f"a memory of {batch} streams does not fit a session of {streams}; "
                f"make one with batch={batch}"
            )
        there, here = tuple(tree["keys.0"].shape), (streams, heads, slots, width)
        ends = [self.layout.end(int(n)) for n in tree["written"]]
        if there != here or max(ends) != slots:
            raise LociError(
                f"the memory of another model or row: keys are {there}, and {max(ends)} slots of "
                f"{heads} heads x {width} are wanted; restore it where it was taken"
            )

    def forget(self, stream: int) -> None:
        """Empty one stream."""
        self.written[stream] = 0
        self.slots[stream] = int(Kind.EMPTY)
        if not any(self.written):
            self._leave_graph()

    @ordinary()
    def _leave_graph(self) -> None:
        """Where nothing held will be read again, the graph that made it must not live on."""
        self.keys = [torch.zeros_like(k) if k.requires_grad else k for k in self.keys]
        self.values = [torch.zeros_like(v) if v.requires_grad else v for v in self.values]

    def tokens(self, stream: int) -> int:
        """Tokens held for a stream."""
        return int((self.coords(stream).kind >= 0).sum())

    def bytes(self, stream: int) -> int:
        """Bytes of keys and values held for a stream, over all layers."""
        k = self.keys[0]
        return 2 * len(self.keys) * self.tokens(stream) * k.shape[1] * k.shape[3] * k.element_size()
