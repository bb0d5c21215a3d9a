"""The streaming cache: what a batch of streams keeps of its past.

One preallocated buffer a layer, heads before sequence, keys already rotated, so that their order
is free:

    [ gists in a window | recent frames (a ring) | kept for ever: anchors and gists -> | scratch ]

The ring fills from the right, so that what is alive is always one slice. Which tokens go where is
read off the rule (`compile_plan`); every slot carries the coordinates of its token, so that what
the cache shows can be checked against the rule at any time. Tokens being denoised use the scratch
behind the last kept one: it belongs to nobody, and no commit ever looks at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loci.visibility import Coords, Kind, Plan

FIELDS = ("frame", "row", "col", "kind")


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each frame stand, by arithmetic alone. L tokens and M gists a frame."""

    plan: Plan
    tokens: int
    gists: int

    @property
    def rings(self) -> int:
        """Slots in front of the part that grows."""
        return self._window(self.plan.gist.recent, self.gists) + self._window(
            self.plan.clean.recent, self.tokens
        )

    @staticmethod
    def _window(recent: int | None, size: int) -> int:
        return 0 if recent is None else recent * size

    def _kept(self, frames: int) -> int:
        """Slots that the first `frames` frames fill for ever."""
        clean, gist = self.plan.clean, self.plan.gist
        whole = frames if clean.recent is None else min(frames, clean.anchors)
        marks = frames if gist.recent is None else min(frames, gist.anchors)
        return whole * self.tokens + marks * self.gists

    def end(self, frames: int) -> int:
        """One past the last slot in use after `frames` frames: where the scratch begins."""
        return self.rings + self._kept(frames)

    def place(self, frame: int) -> list[tuple[Kind, int, int]]:
        """(kind, first slot, count) for each part of a frame that is about to be written."""
        clean, gist = self.plan.clean, self.plan.gist
        stays = clean.recent is None or frame < clean.anchors
        kept, base = self.end(frame), self.rings - self._window(clean.recent, self.tokens)
        parts = []
        if stays:
            parts.append((Kind.CLEAN, kept, self.tokens))
            kept += self.tokens
        elif clean.recent:
            parts.append((Kind.CLEAN, base + _ring(frame, clean.anchors, clean.recent, self.tokens),
                          self.tokens))
        if self.gists:
            if gist.recent is None or frame < gist.anchors:
                parts.append((Kind.GIST, kept, self.gists))
            elif gist.recent:
                parts.append((Kind.GIST, _ring(frame, gist.anchors, gist.recent, self.gists),
                              self.gists))
        return parts


def _ring(frame: int, anchors: int, recent: int, size: int) -> int:
    """First slot of a frame in a ring that fills from the right and then starts over."""
    return (recent - 1 - (frame - anchors) % recent) * size


class Cache:
    """Keys and values of `streams` streams in `layers` layers.

    keys, values: for each layer (B, N, S, d). slots: (B, S, 4) frame, row, column and kind of the
    token in each slot, kind -1 where it is free. written: frames each stream has seen.
    """

    def __init__(
        self, layout: Layout, layers: int, streams: int, heads: int, width: int, slots: int,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ):
        self.layout = layout
        shape = (streams, heads, slots, width)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.slots = torch.full((streams, slots, len(FIELDS)), int(Kind.EMPTY), device=device)
        self.written = [0] * streams

    def reserve(self, slots: int) -> None:
        """Make room for `slots` slots, at least doubling, so that growth stays rare."""
        have = self.slots.shape[1]
        if slots <= have:
            return
        more = max(slots, 2 * have) - have
        pad = torch.nn.functional.pad
        self.keys = [pad(k, (0, 0, 0, more)) for k in self.keys]
        self.values = [pad(v, (0, 0, 0, more)) for v in self.values]
        self.slots = pad(self.slots, (0, 0, 0, more), value=int(Kind.EMPTY))

    def coords(self, stream: int) -> Coords:
        """Coordinates of every slot in use, free ones in between included (their kind is -1)."""
        used = self.slots[stream, : self.layout.end(self.written[stream])]
        frame, row, col, kind = used.unbind(-1)
        return Coords(frame, row, col, kind, frame, torch.full_like(frame, -1))

    def mark(self, streams: slice, coords: Coords, frame: int) -> list[tuple[Tensor, int]]:
        """Give a frame its slots (evicting whoever stood there) and say which token goes where.

        coords: the tokens of the frame, (L + M,). Returns (token indices, first slot) pairs.
        """
        moves = []
        for kind, start, count in self.layout.place(frame):
            which = ((coords.frame == frame) & (coords.kind == int(kind))).nonzero()[:, 0]
            values = torch.stack([getattr(coords, name)[which] for name in FIELDS], dim=-1)
            self.slots[streams, start : start + count] = values
            moves.append((which, start))
        return moves

    def put(self, layer: int, streams: slice, start: int, keys: Tensor, values: Tensor) -> None:
        """Overwrite slots from `start` on, in place; out of place where a gradient must flow."""
        stop = start + keys.shape[2]
        for buffers, new in ((self.keys, keys), (self.values, values)):
            if new.requires_grad:
                buffers[layer] = buffers[layer].clone()
            buffers[layer][streams, :, start:stop] = new

    def committed(self) -> dict[str, Tensor]:
        """All that counts, free slots and scratch zeroed, so that equal memories compare equal."""
        stop = max(self.layout.end(n) for n in self.written)
        slots = self.slots[:, :stop].clone()
        past = torch.arange(stop, device=slots.device)[None] >= torch.tensor(
            [self.layout.end(n) for n in self.written], device=slots.device
        )[:, None]
        slots[past] = int(Kind.EMPTY)
        free = (slots[..., -1] < 0)[:, None, :, None]
        tree = {"slots": slots, "written": torch.tensor(self.written)}
        for layer, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            tree[f"keys.{layer}"] = k[:, :, :stop].masked_fill(free, 0)
            tree[f"values.{layer}"] = v[:, :, :stop].masked_fill(free, 0)
        return tree

    def restore(self, tree: dict[str, Tensor]) -> None:
        """Take over a `committed` tree (copied)."""
        stop = tree["slots"].shape[1]
        self.reserve(stop)
        self.written = [int(n) for n in tree["written"]]
        self.slots.fill_(int(Kind.EMPTY))
        self.slots[:, :stop] = tree["slots"]
        for layer in range(len(self.keys)):
            for buffers, name in ((self.keys, "keys"), (self.values, "values")):
                new = tree[f"{name}.{layer}"]
                if new.requires_grad:
                    buffers[layer] = buffers[layer].clone()
                buffers[layer][:, :, :stop] = new

    def forget(self, stream: int) -> None:
        """Empty one stream."""
        self.written[stream] = 0
        self.slots[stream] = int(Kind.EMPTY)

    def tokens(self, stream: int) -> int:
        """Tokens held for a stream."""
        return int((self.coords(stream).kind >= 0).sum())

    def bytes(self, stream: int) -> int:
        """Bytes of keys and values held for a stream, over all layers."""
        k = self.keys[0]
        return 2 * len(self.keys) * self.tokens(stream) * k.shape[1] * k.shape[3] * k.element_size()
