"""The world model: a codec, a Wan transformer and a memory row, in one configuration.

First frame and camera path in; video out, chunk by chunk. The model owns no state: a stream's
memory is held by a `Session`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from loci.checkpoint import load_checkpoint, load_into, save_checkpoint
from loci.config import Config
from loci.errors import LociError
from loci.flow import Flow
from loci.memory.base import Memory
from loci.models.camera import twelve_numbers
from loci.models.codecs import CodecConfig
from loci.models.rope import camera_angles, token_rays, wan_angles
from loci.models.wan import Segment, Wan, WanConfig
from loci.types import Camera
from loci.visibility import Coords, Kind

if TYPE_CHECKING:
    from loci.session import Session


@dataclass(frozen=True, kw_only=True)
class WorldConfig(Config):
    """Everything that a world model is. Rows of a study differ in `memory` alone.

    `chunk`: frames that are generated together; `steps`: Euler steps for each chunk.
    """

    memory: Memory
    dit: WanConfig
    codec: CodecConfig
    flow: Flow
    camera: Camera
    chunk: int = 4
    steps: int = 10

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.steps < 1:
            raise LociError("chunk and steps must be 1 or more")
        if self.dit.patch[0] != 1:
            raise LociError("a latent frame is one step of time; use a patch of 1 in time")

    def build(self) -> WorldModel:
        return WorldModel(self)


class WorldModel(nn.Module):
    """Codec, transformer and the learned part of the memory (the gist bank)."""

    def __init__(self, config: WorldConfig):
        super().__init__()
        self.config = config
        self.codec = config.codec.build()
        self.dit = Wan(config.dit)
        # MemoryWAM: a shared learnable bank (M, hidden) of standard deviation hidden^-1/2.
        gists = config.memory.gists
        self.gist_bank = nn.Parameter(torch.randn(gists, config.dit.dim) / config.dit.dim**0.5)
        self.latent_shape: tuple[int, int, int] = self.codec.latent_shape(config.camera)
        channels, height, width = self.latent_shape
        if not channels == config.dit.in_channels == config.dit.out_channels:
            raise LociError(
                f"the codec has {channels} channels, the transformer {config.dit.in_channels} in "
                f"and {config.dit.out_channels} out; give all three the same number"
            )
        _, rows, cols = config.dit.patch
        if height % rows or width % cols:
            raise LociError(
                f"latents of {height}x{width} do not split into patches of {rows}x{cols}; "
                "change the camera size or the patch"
            )
        self.grid = (height // rows, width // cols)

    @property
    def tokens(self) -> int:
        """Tokens of a frame, L."""
        return self.grid[0] * self.grid[1]

    def clean_coords(self, frames: Tensor) -> Coords:
        """Coordinates of written frames (F,), each followed by its gists."""
        nobody = torch.full_like(frames, -1)
        grid = Coords.grid(frames, self.grid, Kind.CLEAN, frames, nobody)
        gists = self.config.memory.gists
        if not gists:
            return grid
        marks = Coords.grid(frames, (1, gists), Kind.GIST, frames, nobody)
        order = torch.arange(len(grid) + len(marks), device=frames.device)
        frame, place = order // (self.tokens + gists), order % (self.tokens + gists)
        source = torch.where(
            place < self.tokens,
            frame * self.tokens + place,
            len(grid) + frame * gists + place - self.tokens,
        )
        return Coords.cat([grid, marks])[source]

    def noisy_coords(self, frames: Tensor, now: Tensor, group: Tensor) -> Coords:
        """Coordinates of frames (F,) being denoised; what they know ends with frame `now`."""
        return Coords.grid(frames, self.grid, Kind.NOISY, now, group)

    def clean_segment(
        self, latents: Tensor, poses: Tensor, coords: Coords, time: Tensor | None = None,
        silent: bool = False,
    ) -> Segment:
        """Frames (B, F, C, h, w) at relative poses (B, F, 4, 4), with their gists, at time 0."""
        tokens = self.dit.patchify(latents)
        bank = self.gist_bank.to(tokens.dtype).expand(*tokens.shape[:2], -1, -1)
        if time is None:
            time = torch.zeros(tokens.shape[:2], device=latents.device)
        return self._segment(torch.cat([tokens, bank], dim=2), poses, coords, time, 1, silent)

    def noisy_segment(
        self, latents: Tensor, poses: Tensor, coords: Coords, time: Tensor, span: int
    ) -> Segment:
        """Frames (B, F, C, h, w) being denoised at times (B, F), in groups of `span`."""
        return self._segment(self.dit.patchify(latents), poses, coords, time, span, False)

    def _segment(
        self, tokens: Tensor, poses: Tensor, coords: Coords, time: Tensor, span: int, silent: bool
    ) -> Segment:
        gists = tokens.shape[2] - self.tokens
        motion = None
        if self.config.dit.camera == "rotary":
            rays = token_rays(self.config.camera, self.grid, gists).to(poses.device)
            angles = camera_angles(poses, rays, self.config.dit.head_dim)
        else:
            # Gists stand at one marker outside the grid, as in MemoryWAM.
            away = coords.kind == int(Kind.GIST)
            placed = Coords(
                coords.frame, coords.row.masked_fill(away, -1), coords.col.masked_fill(away, -1),
                coords.kind, coords.now, coords.group,
            )
            angles = wan_angles(placed, self.config.dit.head_dim, self.config.dit.theta)
            angles = angles if angles.dim() == 3 else angles[None]
            if self.config.dit.camera == "inject":
                motion = twelve_numbers(poses)
        return Segment(tokens, time, angles, span, motion, silent)

    def head(self, tokens: Tensor, time: Tensor) -> Tensor:
        """Tokens (B, F, L, D) at times (B, F) -> the network's output (B, F, C, h, w)."""
        return self.dit.predict(tokens, time, *self.latent_shape[1:])

    def session(
        self, batch: int = 1, capacity: int | None = None, gradients: bool = False
    ) -> Session:
        """A fresh memory for `batch` streams; see `Session` for the rest."""
        from loci.session import Session

        return Session(self, batch, capacity, gradients)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32, **notes: object) -> None:
        save_checkpoint(path, "world-model", self.config, self.state_dict(), dtype=dtype, **notes)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The model in a checkpoint file, in fp32, in evaluation mode."""
        config, tensors, _ = load_checkpoint(path, "world-model")
        model = cls(WorldConfig.from_dict(config))
        load_into(model, tensors, path)
        return model.eval()
