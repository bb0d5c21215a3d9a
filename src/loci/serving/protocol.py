"""What a request may be, beside the observation of a robot: the fields that Loci adds to openpi's
protocol.

A request is a map. Without "op" it is openpi's: an observation, answered by a chunk of actions.
What is refused is answered by a text frame, "CODE: one line", and leaves the session as it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from loci.errors import LociError, did_you_mean

Message = Mapping[str, Any]
# What a session can be asked for, whatever model it is of.
CONTROL = ("reset", "instruction", "seed", "save", "restore", "fork", "resume", "info")
# Names of files that no system reads otherwise.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# Seeds, numbers of episodes.
MOST = 2**62


class Refusal(LociError):
    """A request that is not carried out for another reason than what it says.

    code: "late", "limited", "closing" or "failed"; plain LociErrors are "bad".
    """

    def __init__(self, code: str, line: str):
        super().__init__(line)
        self.code = code


def refused(error: LociError) -> str:
    """The text frame that answers a request."""
    code = error.code if isinstance(error, Refusal) else "bad"
    return f"{code}: {' '.join(str(error).split())}"


def checked(message: Any) -> Message:
    """A request, which is a map whose keys are texts; LociError for anything else."""
    if not isinstance(message, dict):
        raise LociError(f"a request that is a {type(message).__name__}; send a map")
    odd = next((key for key in message if not isinstance(key, str)), None)
    if odd is not None:
        raise LociError(f"a request with the key {str(odd)[:40]!r}; keys are texts")
    return message


def op(message: Message, known: tuple[str, ...], otherwise: str | None) -> str:
    """What a message asks for; `otherwise` where it does not say."""
    name = message.get("op", otherwise)
    if not isinstance(name, str) or name not in known:
        shown = "a request without 'op'" if name is None else f"no request '{str(name)[:40]}'"
        raise LociError(f"{shown}{did_you_mean(str(name)[:40], known)}")
    return name


def whole(message: Message, name: str, otherwise: int = 0, most: int = MOST) -> int:
    """A whole number, 0 or more; LociError for anything else."""
    value = message.get(name, otherwise)
    number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not number or not 0 <= value <= most:
        raise LociError(f"{name} is {str(value)[:40]}; give a whole number from 0 to {most}")
    return int(value)


def text(message: Message, *names: str) -> str | None:
    """A text under the first of some names; None where there is none."""
    found = next((message[name] for name in names if message.get(name) is not None), None)
    if isinstance(found, np.ndarray) and found.size == 1:
        found = found.item()
    if found is not None and not isinstance(found, str):
        raise LociError(f"{names[0]} is a {type(found).__name__}; give a text")
    return found


def truth(message: Message, name: str) -> bool:
    """Whether something is asked for."""
    value = message.get(name, False)
    if not isinstance(value, bool | np.bool_):
        raise LociError(f"{name} is {str(value)[:40]}; give true or false")
    return bool(value)


def saved_name(message: Message, field: str = "name") -> str:
    """The name of a saved session; LociError for what could be a path."""
    name = text(message, field)
    if name is None or not NAME.fullmatch(name):
        raise LociError(
            f"a session called {str(name)[:70]!r}; give a name of up to 64 letters, digits, "
            "'_', '-' and '.'"
        )
    return name


def number(message: Message) -> int | None:
    """The number of a request, under which it is carried out once; None where it has none."""
    return None if message.get("id") is None else whole(message, "id")


def deadline(message: Message) -> float | None:
    """Seconds from now until which a request is worth anything; None: for ever."""
    value = message.get("deadline_ms")
    if value is None:
        return None
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < float(value) < float("inf"):
        raise LociError(f"deadline_ms is {str(value)[:40]}; give milliseconds, more than 0")
    return float(value) / 1000


def array(message: Message, name: str, shape: tuple[int | str, ...]) -> np.ndarray | None:
    """Finite numbers of a shape under a name, None where there are none; LociError for others. A
    text in the shape stands for any size of 1 or more."""
    value = message.get(name)
    if value is None:
        return None
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise LociError(f"{name} is no array; give numbers {shape}") from error
    fits = found.ndim == len(shape) and all(
        there >= 1 if isinstance(size, str) else there == size
        for there, size in zip(found.shape, shape, strict=True)
    )
    if not fits or found.dtype.kind not in "biuf":
        wanted = f"({', '.join(map(str, shape))})"
        raise LociError(f"{name} is {found.dtype} {found.shape}; give numbers {wanted}")
    if not np.isfinite(found).all():
        raise LociError(f"NaN or infinity in {name}; give finite numbers")
    return found
