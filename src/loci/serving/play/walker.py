"""A world model that goes along on a walk, with its memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from loci.errors import LociError
from loci.models.told import told
from loci.models.world import WorldModel
from loci.seeds import normal
from loci.serving.play import contents
from loci.serving.play.scene import Moment
from loci.serving.play.walk import Stretch
from loci.streaming.attended import Attending, halfway
from loci.streaming.session import Reading


class Walker:
    """`name`: of its model. seed: its noise belongs to; walkers of one seed imagine alike.

    LociError for a model whose codec makes several images of a latent frame, and for one that
    wants other images than the walk has.
    """

    def __init__(self, name: str, model: WorldModel, seed: int = 0):
        if model.codec.images_per_frame != 1:
            raise LociError(
                f"{name} makes {model.codec.images_per_frame} images of a latent frame; play takes "
                "codecs of one image a frame"
            )
        self.name, self.model, self.seed = name, model, seed
        self.session = model.session(1)
        # Of each stretch (1, n, C, h, w), and (n, H, W, 3).
        self._latents: list[Tensor] = []
        self._pictures: list[Tensor] = []

    @property
    def depth_wanted(self) -> bool:
        return bool(self.model.config.memory.wants)

    def follow(self, stretch: Stretch) -> Moment:
        """Take a stretch: what open eyes see is written; with closed ones it is imagined, and that
        is written."""
        clock, looked = [time.perf_counter()], {}
        if stretch.seen:
            if stretch.pictures is None:
                raise LociError("nobody knows what is to be seen here; close your eyes")
            latents, names = self._encoded(stretch.pictures), ("encode", "write", "show")
        else:
            latents, looked = self._imagined(stretch.poses)
            names = ("generate", "write", "show")
        clock.append(time.perf_counter())
        self._write(latents, stretch)
        self._latents.append(latents)
        clock.append(time.perf_counter())
        pictures = stretch.pictures if stretch.seen else self.model.codec.decode(latents)[0].cpu()
        clock.append(time.perf_counter())
        assert pictures is not None
        self._pictures.append(pictures)
        return Moment({
            name: 1000 * (end - start)
            for name, (start, end) in zip(names, pairwise(clock), strict=True)
        }, looked)

    @property
    def last(self) -> Tensor:
        """What it saw or imagined of the last stretch, (n, H, W, 3) uint8."""
        return self._pictures[-1]

    @property
    def pictures(self) -> Tensor:
        """All that it saw and imagined, (T, H, W, 3) uint8."""
        return torch.cat(self._pictures)

    def rewind(self, stretches: Sequence[Stretch]) -> None:
        """Go back to the first so many stretches of the walk: the memory is written anew from what
        it saw and imagined then."""
        del self._latents[len(stretches) :], self._pictures[len(stretches) :]
        self.session.reset()
        for latents, stretch in zip(self._latents, stretches, strict=True):
            self._write(latents, stretch)

    def forget(self, stretches: Sequence[Stretch]) -> None:
        """Know nothing but the last frame, as if one had just woken up there."""
        last = stretches[-1]
        here = Stretch(
            last.poses[-1:], *(None if part is None else part[-1:]
                               for part in (last.pictures, last.depth)), last.seen,
        )
        if here.pictures is not None:
            latents, here = self._encoded(here.pictures), Stretch(
                here.poses, here.pictures, here.depth, True
            )
        else:
            latents = self._latents[-1][:, -1:]
        self.session.reset()
        self._write(latents, here)

    def remember(self, stretches: Sequence[Stretch]) -> None:
        """In place of its own walk remember another one."""
        self.session.reset()
        for stretch in stretches:
            assert stretch.pictures is not None
            self._write(self._encoded(stretch.pictures), stretch)

    def fork(self) -> Walker:
        """Another one with the same past."""
        other = Walker(self.name, self.model, self.seed)
        other.session.restore(self.session.snapshot())
        other._latents, other._pictures = list(self._latents), list(self._pictures)
        return other

    def save(self, path: Path) -> None:
        """Write the memory to a file, which `Session.load` takes up."""
        self.session.save(path)

    @property
    def held(self) -> dict[str, int]:
        """Bytes that each store keeps."""
        return contents.held(self.session.stream)

    @property
    def kept(self) -> dict[str, list[int]]:
        """Frames of which something is still in the cache, by kind."""
        return contents.kept(self.session.stream, self._first)

    @property
    def _first(self) -> int:
        """The first frame of the walk that it knows of."""
        return sum(part.shape[1] for part in self._latents) - self.session.lengths[0]

    def _imagined(self, poses: Tensor) -> tuple[Tensor, dict[int, float]]:
        number = len(self._latents)
        noise = normal((1, len(poses), *self.model.latent_shape), self.seed, "play", number)
        config, reading = self.model.config, self.session.read(poses[None])
        passes = {halfway(config.flow.evaluations(config.steps))}
        attending = Attending(self.session, reading, passes)
        latents = self.session.solve(attending.reading, noise)
        (found,) = attending.found()
        looked = contents.looked_at(found, self._first, self.session.lengths[0])
        beside = self._beside(reading)
        if len(beside) != len(found.beside):
            beside = [-1] * len(found.beside)
        for frame, share in zip(beside, found.beside, strict=True):
            looked[frame] = looked.get(frame, 0.0) + share
        return latents, looked

    def _beside(self, reading: Reading) -> list[int]:
        """The numbers of the frames that stand beside a chunk, which are known by their latents."""
        beside = reading.evidence.frames
        if beside is None:
            return []
        past = torch.cat(self._latents, dim=1)[0].flatten(1)
        apart = torch.cdist(beside.latents[0].flatten(1).float(), past.float())
        return apart.argmin(1).tolist()

    def _encoded(self, pictures: Tensor) -> Tensor:
        return self.model.codec.encode(pictures[None].to(self.session.stream.device))

    def _write(self, latents: Tensor, stretch: Stretch) -> None:
        extras = {}
        if self.depth_wanted:
            extras = self._told(stretch, latents)
        self.session.write(latents, stretch.poses[None], **extras)

    def _told(self, stretch: Stretch, latents: Tensor) -> dict[str, Tensor]:
        """What a map is told: of what is imagined nobody knows the depth."""
        if not stretch.seen:
            return {}
        if stretch.pictures is None or stretch.depth is None:
            raise LociError(f"{self.name} maps what it sees, and of a picture nobody knows the "
                            "depth; choose another memory")
        return told(self.model, stretch.pictures[None], stretch.depth[None])
