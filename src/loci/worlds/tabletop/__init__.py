"""Two arms, three cameras, and tasks that need memory."""

from loci.worlds.tabletop.env import Tabletop

__all__ = ["Tabletop"]
