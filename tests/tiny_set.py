"""What the small set of rooms in Context-as-Memory's layout is that tests look at."""

from __future__ import annotations

from loci.data.tiny_scenes import TinyScenes

TINY = TinyScenes(length=33, size=32)
