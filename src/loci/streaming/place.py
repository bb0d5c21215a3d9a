"""A place that a stream came to know: what of its memory outlives the episode.

Another stream may begin there (`Session.begin_in`), of the same model or of another one with the
same camera and codec: the place is known, the episode is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from loci.errors import LociError
from loci.memory.stores import PlaceStore, Tree, below
from loci.streaming import files

if TYPE_CHECKING:
    from loci.models.world import WorldModel


@dataclass(frozen=True, eq=False)
class Place:
    """What stores know of a place, as a tree STORE.PART, after `frames` frames. It is relative to
    the first of them, which stood at `reference` (4, 4) in gauge `gauge`. camera, codec: hashes of
    what it was seen through."""

    tree: Tree
    reference: Tensor
    gauge: int
    frames: int
    camera: str
    codec: str

    def check(self, stores: Sequence[PlaceStore], model: WorldModel) -> None:
        """LociError where streams of this model, which has these stores, cannot begin here."""
        config = model.config
        for what, own in (("camera", config.camera.hash()), ("codec", config.codec.hash())):
            if getattr(self, what) != own:
                raise LociError(
                    f"a place that was seen through another {what} ({getattr(self, what)}, not "
                    f"{own}); begin there with a model that has the same"
                )
        known, wanted = {name.partition(".")[0] for name in self.tree}, {s.name for s in stores}
        if known != wanted:
            raise LociError(
                f"a place known by {_listed(known)}, and this memory knows one by "
                f"{_listed(wanted)}; begin there with a memory that has the same"
            )
        for store in stores:
            store.check_place(below(self.tree, store.name))

    @classmethod
    def load(cls, path: str | Path, stream: int = 0) -> Place:
        """The place of a stream in a file that `Session.save` wrote, of whatever model. Raises
        LociError for a damaged file, and for one that holds no such place."""
        found = places(path)
        if stream not in found:
            raise LociError(
                f"{path} holds no place of stream {stream}; give one of {_listed(found)}"
            )
        return found[stream]


def places(path: str | Path) -> dict[int, Place]:
    """The places in a file that `Session.save` wrote, by the numbers of their streams. Raises
    LociError for a damaged file, and for one without any."""
    tree, notes = files.read(path)
    stores = [name for name in notes.get("places", "").split(",") if name]
    found = {}
    for stream, frames in enumerate(tree["written"].tolist()):
        if stores and frames:
            parts = {
                f"{store}.{part}": value for store in stores
                for part, value in below(tree, f"{store}.{stream}").items()
            }
            found[stream] = Place(
                parts, tree["reference"][stream], int(tree["gauge"][stream]), frames,
                notes["camera"], notes["codec"],
            )
    if not found:
        raise LociError(
            f"{path} knows no place; save a session whose memory has a map and has seen something"
        )
    return found


def _listed(names: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, names))) or "nothing"
