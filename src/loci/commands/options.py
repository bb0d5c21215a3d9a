"""How options are called in the help, and read."""

from __future__ import annotations

from typing import Any

from tyro.conf import arg

from loci.errors import LociError


def named(metavar: str) -> Any:
    """The name of a value in the help."""
    return arg(metavar=metavar)


def maybe(metavar: str, otherwise: str) -> Any:
    """The same for an optional value, with what happens without it."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {otherwise})")


def listed(text: str | None, what: str = "row") -> tuple[str, ...] | None:
    """Rows (or tasks) separated by commas; None are all of them."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise LociError(f"'{text}' names no {what}; give --{what}s a,b")
    return names

