"""What does not fit between stored tensors and a model: all of it, in one line.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# So many names of a kind stand in a message.
NAMED = 5

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Mismatch:
    """Tensors that a model wants and does not find, finds and does not want, and finds in another
    shape: (name, shape there, shape wanted)."""

    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()
    misshaped: tuple[tuple[str, Shape, Shape], ...] = ()

    @classmethod
    def between(
        cls, there: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]
    ) -> Mismatch:
        """Of the shapes that are stored, and those that a model wants, by name."""
        both = [name for name in wanted if name in there]
        return cls(
            tuple(name for name in wanted if name not in there),
            tuple(name for name in there if name not in wanted),
            tuple(
                (name, tuple(there[name]), tuple(wanted[name])) for name in both
                if tuple(there[name]) != tuple(wanted[name])
            ),
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus or self.misshaped)

    def __str__(self) -> str:
        """The parts of a sentence whose subject is where the tensors are stored."""
        parts = []
        if self.missing:
            parts.append(_several(self.missing, "lacks the tensor {}", "lacks {} tensors: {}"))
        if self.surplus:
            parts.append(_several(
                self.surplus, "has a tensor {} that the model has not",
                "has {} tensors that the model has not: {}",
            ))
        if self.misshaped:
            told = [f"'{n}' is {there}, the model wants {here}"
                    for n, there, here in self.misshaped[:NAMED]]
            more = len(self.misshaped) - NAMED
            parts.append(", ".join(told) + (f", and {more} more have other shapes" * (more > 0)))
        return "; ".join(parts)


def quoted(names: Iterable[str], most: int = NAMED) -> str:
    """Names in quotes, and after so many of them how many there are more."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more


def _several(names: Sequence[str], one: str, many: str) -> str:
    return one.format(quoted(names)) if len(names) == 1 else many.format(len(names), quoted(names))
