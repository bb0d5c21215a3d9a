"""The one exception that a user meets: a single line naming the cause and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LociError(Exception):
    """Bad input, a bad file or a bad configuration: one line, cause first, then the fix."""


def check_type(value: object, kind: type, name: str, give: str) -> None:
    """LociError for an argument of another type: an array where a tensor is due, say, or None.

    name: of the argument, for the message. give: what to give instead.
    """
    if not isinstance(value, kind):
        there = "None" if value is None else f"a {type(value).__module__}.{type(value).__name__}"
        raise LociError(f"{name}: {there.replace('a builtins.', 'a ')}; give {give}")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest valid one, and all of them."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"; did you mean '{close[0]}'?" if close else ""
    return f"{guess} (known: {', '.join(known)})"
