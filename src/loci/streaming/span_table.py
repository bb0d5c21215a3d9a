"""Where the tokens of a stream's frames stand in its cache.

Keys are rotated before they are cached, so their order is free. Whole frames stand to the left of a
pivot, the small blocks (gists, executed actions) to the right of it, both without a gap: what is
kept is one slice, whatever the rule keeps. A block that is let go leaves a hole; a new block of its
size takes it, or else the last block moves into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from loci.rules.retention import Retention
from loci.rules.rule import Coords, Kind
from loci.rules.spans import TokenSpans

LEFT = (Kind.CLEAN,)


class Block(NamedTuple):
    """The tokens of one kind of one frame."""

    kind: Kind
    frame: int


class SpanTable:
    """The blocks of streams that have seen `written` frames, and where they stand: slots count from
    the pivot, negative ones are to the left of it. It follows from the retention and the number of
    frames alone, so that streams of one length share a table.

    sizes: tokens of a block of each kind that is there at all.
    """

    def __init__(self, retention: Retention, sizes: Mapping[Kind, int]):
        self.retention, self.sizes = retention, dict(sizes)
        self.written = 0
        self.left: list[Block] = []  # from the pivot outwards
        self.right: list[Block] = []
        self.start: dict[Block, int] = {}
        self._due: dict[int, list[Block]] = {}

    def copy(self) -> SpanTable:
        """The same blocks, to go on from."""
        other = SpanTable(self.retention, self.sizes)
        other.written = self.written
        other.left, other.right = [*self.left], [*self.right]
        other.start = {**self.start}
        other._due = {when: [*blocks] for when, blocks in self._due.items()}
        return other

    @property
    def low(self) -> int:
        """The first slot in use."""
        return -sum(self.sizes[block.kind] for block in self.left[-1:]) * len(self.left)

    @property
    def high(self) -> int:
        """One past the last slot in use: where the scratch begins."""
        if not self.right:
            return 0
        return self.start[self.right[-1]] + self.sizes[self.right[-1].kind]

    def arrive(self) -> SpanTable:
        """The table with what was carried out since the last frame: it stands behind everything
        already, and counts from the next frame on."""
        done = Block(Kind.EXECUTED, self.written - 1)
        if not self.sizes.get(Kind.EXECUTED, 0) or not self.written or done in self.start:
            return self
        table = self.copy()
        table._append(table.right, table._kept([done]))
        return table

    def leaving(self) -> list[Block]:
        """The blocks that the next frame lets go."""
        return self._due.get(self.written, [])

    def advance(self, frames: int = 1) -> None:
        """So many more frames are written."""
        for kept in ("rows", "spans"):
            self.__dict__.pop(kept, None)
        for _ in range(frames):
            arrived = self.arrive()
            if arrived is not self:
                vars(self).update(vars(arrived))
            self._advance()

    def _advance(self) -> None:
        number, gone = self.written, set(self._due.pop(self.written, ()))
        new = self._kept([Block(Kind.CLEAN, number), Block(Kind.GIST, number)])
        self._let_go(self.left, gone, [block for block in new if block.kind in LEFT])
        self._let_go(self.right, gone, [block for block in new if block.kind not in LEFT])
        self.written += 1

    def _kept(self, blocks: list[Block]) -> list[Block]:
        """Those that are there at all, and stay."""
        kept = []
        for block in blocks:
            if self.sizes.get(block.kind, 0):
                last = self.retention.expiry(*block)
                if last > self.written:
                    self._due.setdefault(last, []).append(block)
                    kept.append(block)
        return kept

    def _let_go(self, pool: list[Block], gone: set[Block], new: list[Block]) -> None:
        holes = [place for place, block in enumerate(pool) if block in gone] if gone else []
        for place in holes:
            if place >= len(pool):
                break
            size = self.sizes[pool[place].kind]
            filler = next((block for block in new if self.sizes[block.kind] == size), None)
            if filler is not None:
                new.remove(filler)
                self._put(pool, place, filler)
                continue
            while pool[-1] in gone and len(pool) - 1 > place:
                del self.start[pool.pop()]
            if len(pool) - 1 > place and self.sizes[pool[-1].kind] == size:
                self._put(pool, place, pool.pop())
        left_over = [place for place, block in enumerate(pool) if block in gone] if holes else []
        if left_over:
            # Blocks of another size cannot take the hole: all behind it close up.
            staying = [block for block in pool[left_over[0] :] if block not in gone]
            for block in pool[left_over[0] :]:
                del self.start[block]
            del pool[left_over[0] :]
            self._append(pool, staying)
        self._append(pool, new)

    def _put(self, pool: list[Block], place: int, block: Block) -> None:
        self.start[block] = self.start.pop(pool[place])
        pool[place] = block

    def _append(self, pool: list[Block], blocks: list[Block]) -> None:
        for block in blocks:
            if pool is self.left:
                self.start[block] = -self.sizes[block.kind] * (len(pool) + 1)
            else:
                self.start[block] = self.high
            pool.append(block)

    @cached_property
    def rows(self) -> Tensor:
        """First slot, tokens, frame and kind of all blocks in the order of their slots, (K, 4)."""
        blocks = [*reversed(self.left), *self.right]
        rows = [(self.start[b], self.sizes[b.kind], b.frame, int(b.kind)) for b in blocks]
        return torch.tensor(rows, dtype=torch.long).view(-1, 4)

    @cached_property
    def spans(self) -> TokenSpans:
        """All blocks in the order of their slots."""
        starts, sizes, frames, kinds = self.rows.unbind(1)
        return TokenSpans(starts, sizes, coords(frames, kinds))


def coords(frames: Tensor, kinds: Tensor) -> Coords:
    """What a rule is asked about blocks."""
    nowhere = torch.zeros_like(frames)
    return Coords(frames, nowhere, nowhere, kinds, frames, nowhere - 1)
