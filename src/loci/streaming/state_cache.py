"""The states that the streams of a session carry, block by block."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from loci.attention.rotary import RotaryCosSin
from loci.errors import LociError
from loci.memory.recurrent import Carry, Read, State, StateHook, own


class Carried:
    """The states that the streams of a session carry, block by block."""

    def __init__(self, carries: Mapping[int, Carry], batch: int):
        self.carries = carries
        self.states = {k: c.init(batch) for k, c in carries.items() if c.source is None}
        self._empty = {k: c.init(1) for k, c in carries.items() if c.source is None}

    def writing(self, names: list[int], frames: int) -> tuple[StateHook, dict[int, State]]:
        """For a pass over `frames` clean frames of streams `names`; fills the states after it."""
        after: dict[int, State] = {}

        def recall(layer: int, xs: list[Tensor], turns: list[RotaryCosSin]) -> list[Tensor]:
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

    def reading(self, names: list[int], read: Read = own) -> StateHook:
        """For a pass over noisy chunks of streams `names`: what they read, and nothing changes."""

        def recall(layer: int, xs: list[Tensor], turns: list[RotaryCosSin]) -> list[Tensor]:
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
