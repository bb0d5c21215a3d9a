"""The rows of the rooms: what each costs a world model. Every row is the small one, untrained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loci.io.user_code import source_files
from loci.memory import ROWS, row
from loci.recipes.rooms import rooms
from loci.study.bench.bench import REPEATS, SEED, Bench, Row
from loci.study.bench.cost import BLOCK, Stream

FRAMES = (25, 100, 400)


class RoomsRow(Stream, Row):
    """A stream that really writes its frames."""

    def __init__(self, name: str, device: torch.device):
        torch.manual_seed(SEED)
        model = rooms(row(name)).world.build().eval().to(device)
        # The first frame ever costs more than any other: it goes to a stream that is thrown away.
        Stream(model, model.session()).write()
        super().__init__(model, model.session())

    stand, chunk = Stream.advance, Stream.generate

    def read(self) -> None:
        self.reading = self.session.read(self.poses(self.model.config.chunk))

    def evaluation(self) -> Tensor:
        noisy = self.noise[:, : self.model.config.chunk]
        return self.session.denoise(self.reading, noisy, 0.5)

    def costs(self) -> dict[str, Any]:
        return {"tokens": int(self.session.tokens()), "bytes": int(self.session.bytes())}

    def held(self, frames: int) -> tuple[int, int, int]:
        config = self.model.config
        tokens = config.memory.tokens_held(frames, self.model.tokens)
        size = tokens * 2 * config.dit.num_layers * config.dit.dim * 4
        return tokens, size, size


class RoomsBench(Bench):
    """Memory rows of the world model of the rooms."""

    acts = {  # noqa: RUF012 (constants)
        "write": "one frame is committed, the last ones before N: a clean pass through the network",
        "read": "what the next chunk may see is looked up; retrieved frames are selected and "
        "copied",
        "evaluation": "the network is evaluated once on that chunk, against what was read; on a "
        "GPU as one CUDA graph",
        "chunk": "that chunk is generated: one read, and an evaluation for every Euler step",
    }
    floor = "none"
    on_gpu = ("evaluation",)

    def __init__(
        self, names: Sequence[str] | None = None, frames: Sequence[int] = FRAMES,
        repeats: int = REPEATS, limit: float | None = None,
    ):
        super().__init__(names, frames, repeats, limit)
        for name in self.names:
            row(name)

    def known(self) -> Sequence[str]:
        return list(ROWS)

    def build(self, name: str) -> RoomsRow:
        return RoomsRow(name, self.device)

    def memory(self, row: Row) -> dict[str, Any]:
        return source_files(row.model.config.memory)

    def describe(self) -> dict[str, Any]:
        first = self.rows[self.floor].model
        return {
            "model": "the small world model of the rooms, untrained",
            "frames": "latent frames written, one stream",
            "warm_up": "a turn of all rows; for write, a frame at the start",
            "chunk": first.config.chunk, "steps": first.config.steps,
            "tokens_a_frame": first.tokens, "block": BLOCK, "command": self.command(),
        }
