"""The one exception that a user meets: a single line naming the cause and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LociError(Exception):
    """Bad input, a bad file or a bad configuration: one line, cause first, then the fix."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the closest valid one, and all of them."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"; did you mean '{close[0]}'?" if close else ""
    return f"{guess} (known: {', '.join(known)})"
