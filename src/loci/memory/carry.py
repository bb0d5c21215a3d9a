"""The second way to remember: state that a block carries from frame to frame.

A carry belongs to one block of the transformer and comes after its self-attention. Clean frames
advance its state, one after the other; a chunk that is being generated starts from the state after
the last clean frame and leaves it as it was. Training runs `write` over a whole episode at once,
a stream over one frame after the other: it is the same function.

The state is a plain tree of tensors (B, ...), of a fixed size, held by the caller.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loci.errors import LociError

if TYPE_CHECKING:
    from loci.models.mot import Recall
    from loci.models.trunk import Turn

State = dict[str, Tensor]


class Carry(nn.Module, ABC):
    """What one block carries. `source`: the block whose state this one reads instead of a state
    of its own; such a carry has nothing to write. `reach`: how many of the last clean frames a
    read depends on (None: all of them), a promise that the conformance tests hold it to.
    `tokenwise`: whether `read` treats every token by itself, so that tokens that are no frame, as
    actions are none, may read too."""

    source: int | None = None
    reach: int | None = None
    tokenwise: bool = False

    @abstractmethod
    def init(self, batch: int) -> State:
        """The state of `batch` streams that have seen nothing, {name: (B, ...)}, in fp32."""

    @abstractmethod
    def write(
        self, x: Tensor, state: State, at: Sequence[int], turn: Turn
    ) -> tuple[Tensor, list[State]]:
        """Take in clean frames x (B, F, P, D), P tokens a frame, after `state`.

        turn: cosines and sines of the tokens' rotary angles, (B or 1, F * P, d / 2) each. Returns
        what the frames themselves read, to be added to x, and the states after the frames `at`
        (ascending, counted within x).
        """

    @abstractmethod
    def read(self, x: Tensor, state: State, turn: Turn) -> Tensor:
        """What a noisy chunk x (B, n, P, D), turned by `turn`, reads, to be added to x; `state`
        stays as it is."""


class Guest(nn.Module):
    """Lets tokens of width `width` read a carry of width `host`: mapped there and back (ours)."""

    def __init__(self, width: int, host: int):
        super().__init__()
        self.inward = nn.Linear(width, host)
        self.outward = nn.Linear(host, width, bias=False)

    def read(self, carry: Carry, x: Tensor, state: State, turn: Turn) -> Tensor:
        """As `Carry.read`, which takes a width of its own: x (B, n, P, width)."""
        return self.outward(carry.read(self.inward(x), state, turn))


# (layer, carry, tokens (B, n, P, D), state, their rotary angles) -> what the tokens read.
Read = Callable[[int, Carry, Tensor, State, Any], Tensor]


def own(layer: int, carry: Carry, x: Tensor, state: State, turn: Turn) -> Tensor:
    """The tokens of the carry's own transformer read as it says."""
    return carry.read(x, state, turn)


def stack(states: Sequence[State]) -> State:
    """States of G moments as one of G times as many streams: (B * G, ...), moments innermost."""
    return {
        name: torch.stack([state[name] for state in states], dim=1).flatten(0, 1)
        for name in states[0]
    }


class Carried:
    """The states that the streams of a session carry, block by block."""

    def __init__(self, carries: Mapping[int, Carry], batch: int):
        self.carries = carries
        self.states = {k: c.init(batch) for k, c in carries.items() if c.source is None}
        self._empty = {k: c.init(1) for k, c in carries.items() if c.source is None}

    def writing(self, names: list[int], frames: int) -> tuple[Recall, dict[int, State]]:
        """For a pass over `frames` clean frames of streams `names`; fills the states after it."""
        after: dict[int, State] = {}

        def recall(layer: int, xs: list[Tensor], turns: list[Turn]) -> list[Tensor]:
            if layer not in self.states:
                return xs
            (x,) = xs
            seen, (after[layer],) = self.carries[layer].write(
                x, self._rows(layer, names), [frames - 1], *turns
            )
            return [x + seen]

        return recall, after

    def commit(self, names: list[int], after: Mapping[int, State]) -> None:
        """Take over the states after a pass, once it is through."""
        # Whatever mode this is called in, what other streams hold keeps its graph.
        with torch.inference_mode(False):
            for layer, state in after.items():
                for name, rows in state.items():
                    held, rows = _ordinary(self.states[layer][name]), _ordinary(rows)
                    index = torch.tensor(names, device=held.device)
                    self.states[layer][name] = held.index_copy(0, index, rows)

    def reading(self, names: list[int], read: Read = own) -> Recall:
        """For a pass over noisy chunks of streams `names`: what they read, and nothing changes."""

        def recall(layer: int, xs: list[Tensor], turns: list[Turn]) -> list[Tensor]:
            if layer not in self.carries:
                return xs
            carry, (x,) = self.carries[layer], xs
            source = layer if carry.source is None else carry.source
            return [x + read(layer, carry, x, self._rows(source, names), *turns)]

        return recall

    def forget(self, name: int) -> None:
        """Empty one stream."""
        for layer, state in self._empty.items():
            self.commit([name], {layer: state})

    def leave_graph(self) -> None:
        """Where all streams are empty, the graph that made their states must not live on."""
        for state in self.states.values():
            for name, value in state.items():
                state[name] = value.detach()

    def snapshot(self) -> State:
        return {
            f"carried.{layer}.{name}": value.clone()
            for layer, state in self.states.items()
            for name, value in state.items()
        }

    def check(self, tree: Mapping[str, Tensor]) -> None:
        """LociError where a snapshot carries something else."""
        here = {name: value.shape for name, value in self.snapshot().items()}
        there = {k: v.shape for k, v in tree.items() if k.startswith("carried.")}
        if here != there:
            raise LociError(
                f"a memory that carries {_list(there)} does not fit a model that carries "
                f"{_list(here)}; restore it where it was taken"
            )

    def restore(self, tree: Mapping[str, Tensor]) -> None:
        """Take over a snapshot that `check` let pass."""
        for layer, state in self.states.items():
            for name, value in state.items():
                state[name] = tree[f"carried.{layer}.{name}"].to(value.device, copy=True)

    def bytes(self) -> int:
        """Bytes of state a stream."""
        return sum(
            value[0].numel() * value.element_size()
            for state in self.states.values()
            for value in state.values()
        )

    def _rows(self, layer: int, names: list[int]) -> State:
        state = self.states[layer]
        if all(names == list(range(len(value))) for value in state.values()):
            return state  # no copy a step; states are replaced, never changed
        return {name: value[names] for name, value in state.items()}


def _ordinary(value: Tensor) -> Tensor:
    """A tensor that autograd can go on with, whatever mode it was made in. To be called outside of
    inference mode."""
    return value.clone() if value.is_inference() else value


def _list(shapes: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items()) or "nothing"
