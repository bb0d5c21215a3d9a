"""A sparse grid: cells by their place in space, each with fields of numbers.

Keys are packed integers in a sorted array, so that a cell is found by bisection, and a grid of the
same cells is the same whatever the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from loci.errors import LociError

BITS = 21
# A grid reaches so many cells in each direction.
REACH = 1 << (BITS - 1)
LOW = (1 << BITS) - 1
# Views that count in a cell's sums; beyond, all that came before counts half.
MOST = 255


# What a step along each axis adds to a key: no cell stands at the grid's very border.
STRIDES = (1 << 2 * BITS, 1 << BITS, 1)


def pack(cells: Tensor) -> Tensor:
    """Cells (M, 3), whole numbers, as one sortable integer each. LociError beyond the grid."""
    if len(cells) and int(cells.abs().max()) >= REACH:
        raise LociError(
            f"a point is {int(cells.abs().max())} voxels from the map's origin, and a map reaches "
            f"{REACH}; give poses and depth in metres, or larger voxels"
        )
    x, y, z = (cells.long() + REACH).unbind(1)
    return (x << 2 * BITS) | (y << BITS) | z


def unpack(keys: Tensor) -> Tensor:
    """The cells (M, 3) of packed keys."""
    parts = [keys >> 2 * BITS, (keys >> BITS) & LOW, keys & LOW]
    return torch.stack(parts, dim=1) - REACH


class Cells:
    """Cells with fields, (M,) or (M, n) each. fields: name -> (numbers a cell, dtype, fill)."""

    def __init__(
        self, fields: Mapping[str, tuple[tuple[int, ...], torch.dtype, int]], device: torch.device
    ):
        self.made = dict(fields)
        self.keys = torch.zeros(0, dtype=torch.int64, device=device)
        self.fields = {
            name: torch.zeros(0, *shape, dtype=dtype, device=device)
            for name, (shape, dtype, _) in fields.items()
        }

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name]

    def find(self, keys: Tensor) -> Tensor:
        """Where keys (K,) stand, -1 for those that are not there."""
        if not len(self.keys):
            return torch.full_like(keys, -1)
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, place, torch.full_like(place, -1))

    def insert(self, keys: Tensor) -> Tensor:
        """Where distinct keys (K,) stand, after those that were missing have been added."""
        found = self.find(keys)
        new = keys[found < 0]
        if not len(new):
            return found
        self.keys, order = torch.cat([self.keys, new]).sort()
        # What comes last, as frames do, moves nothing.
        moved = bool((order[1:] < order[:-1]).any())
        for name, (shape, dtype, fill) in self.made.items():
            more = torch.full((len(new), *shape), fill, dtype=dtype, device=keys.device)
            field = torch.cat([self.fields[name], more])
            self.fields[name] = field[order] if moved else field
        return self.find(keys)

    def keep(self, which: Tensor) -> None:
        """Forget all cells but these, a mask (M,)."""
        self.keys = self.keys[which]
        self.fields = {name: value[which] for name, value in self.fields.items()}

    def tree(self) -> dict[str, Tensor]:
        return {"keys": self.keys.clone()} | {k: v.clone() for k, v in self.fields.items()}

    def check(self, tree: Mapping[str, Tensor]) -> None:
        """LociError for what is no such grid."""
        keys = tree.get("keys")
        right = keys is not None and set(tree) == {"keys", *self.made} and all(
            tree[name].shape == (len(keys), *shape) and tree[name].dtype == dtype
            for name, (shape, dtype, _) in self.made.items()
        )
        if not right or not bool((keys[1:] > keys[:-1]).all()):
            raise LociError("a map of another form or a damaged one; give one of the same memory")

    def restore(self, tree: Mapping[str, Tensor]) -> None:
        device = self.keys.device
        self.keys = tree["keys"].to(device, copy=True)
        self.fields = {name: tree[name].to(device, copy=True) for name in self.made}

    @property
    def bytes(self) -> int:
        """Of keys and fields."""
        parts = [self.keys, *self.fields.values()]
        return sum(part.numel() * part.element_size() for part in parts)


def make_room(cells: Cells, rows: Tensor, sums: Iterable[str]) -> None:
    """Where `weight` views are summed up that a byte cannot count further, let all of them count
    half: a mean that goes on, and in which a change shows sooner or later."""
    full = rows[cells["weight"][rows] == MOST]
    for name in ("weight", *sums):
        cells[name][full] = cells[name][full] // 2
