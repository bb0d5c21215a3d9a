"""What a memory's observations show to the chunks of an episode, worked out once and kept.

What a map draws for a chunk depends on the frames before it alone, and takes milliseconds a frame:
too long for every training step, and the same in each of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loci.errors import LociError
from loci.geometry import Camera
from loci.memory.base import Memory
from loci.memory.frames import Frames
from loci.memory.stores import NOWHERE, Chunks, Episode, ObservationStore, Setting
from loci.models.codecs import Codec
from loci.streaming.frame_buffer import observing

# Raise it whenever stores find something else in the same frames. Where one alone does, its
# `depends` says so, and the others' surveys stay.
SURVEYS = "loci-surveys-1"


@dataclass(frozen=True)
class Surveyor:
    """Looks up what the observation stores of a memory answer to chunks of `chunk` frames that
    follow each other from the second frame on."""

    memory: Memory
    codec: Codec
    camera: Camera
    chunk: int

    @property
    def depends(self) -> dict[str, dict[str, Any]]:
        """The settings that each store's part follows from, by the store's name, as JSON has them;
        besides, it follows from the codec and the frames."""
        return {store.name: {"chunk": self.chunk, store.name: store.depends}
                for store in self._stores(1)}

    @torch.inference_mode()
    def survey(
        self, frames: Frames, names: Collection[str] | None = None, poses: Tensor | None = None
    ) -> dict[str, Tensor]:
        """STORE.PART (B, G, ...) of episodes (B, T, ...), of the stores of these names (default:
        all). poses (B, T, 4, 4): where chunks stand, if not where the frames are said to stand.
        LociError for frames that cannot be taken in, and for fewer than a chunk and one."""
        batch, length = frames.latents.shape[:2]
        starts = range(1, length - self.chunk + 1, self.chunk)
        if not starts:
            raise LociError(f"{length} frames hold no first frame and chunk of {self.chunk}")
        where = frames.poses if poses is None else poses
        chunks = Chunks.along(where, starts, self.chunk, NOWHERE)
        found = {}
        for store in self._stores(batch):
            if names is None or store.name in names:
                store.admit(range(batch), [0] * batch, frames)
                looked = store.survey(Episode(frames, None, [chunks]))
                found |= {f"{store.name}.{part}": value for part, value in looked.items()}
        return found

    def _stores(self, batch: int) -> list[ObservationStore]:
        weight = next(self.codec.parameters(), torch.zeros(()))
        shape = self.codec.latent_shape(self.camera)
        setting = Setting(
            batch, shape, 0, self.camera, weight.device, weight.dtype,
            lambda pictures: self.codec.encode(pictures[:, None])[:, 0],
        )
        return [
            store for store in observing(self.memory, setting)
            if isinstance(store, ObservationStore) and store.depends
        ]
