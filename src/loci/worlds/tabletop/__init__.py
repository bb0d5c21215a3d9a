"""Two arms, three cameras, and tasks that need memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loci.worlds.tabletop.env import Tabletop

__all__ = ["Tabletop"]


def __getattr__(name: str) -> Any:
    """Import the environment when it is used: tasks can be named without gymnasium."""
    if name != "Tabletop":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from loci.worlds.tabletop.env import Tabletop

    return Tabletop
