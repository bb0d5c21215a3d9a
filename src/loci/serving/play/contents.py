"""What a companion's memory holds, and where it looks: the same for worlds and robots."""

from __future__ import annotations

from loci.rules.rule import Kind
from loci.streaming.attended import Attended
from loci.streaming.stream import Stream


def held(stream: Stream) -> dict[str, int]:
    """Bytes that each store of the only stream keeps."""
    found = {store.name: store.bytes(0) for store in stream.stores}
    return {name: count for name, count in found.items() if count}


def kept(stream: Stream, first: int) -> dict[str, list[int]]:
    """Frames of which something is still in the cache, by kind. first: the number that the page
    gives the first frame that the stream knows of."""
    found: dict[str, list[int]] = {}
    for kind, frame in stream.kv.tables[0].start:
        found.setdefault(Kind(kind).name.lower(), []).append(first + frame)
    return {kind: sorted(frames) for kind, frames in sorted(found.items())}


def looked_at(found: Attended, first: int, frames: int) -> dict[int, float]:
    """The share of attention on each of so many frames, numbered from `first`."""
    looked = dict.fromkeys(range(first, first + frames), 0.0)
    for block, share in found.past.items():
        looked[first + block.frame] += share
    return looked
