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

from loci.config import Config
from loci.errors import LociError
from loci.flow import Flow
from loci.geometry import Camera
from loci.io.checkpoint import load_checkpoint, load_into, save_checkpoint
from loci.memory.base import Memory
from loci.memory.frames import Frames
from loci.models.camera import twelve_numbers
from loci.models.codecs.base import CodecConfig
from loci.models.rope import camera_angles, token_rays, wan_angles
from loci.models.trunk import Segment
from loci.models.wan import Wan, WanConfig
from loci.rules.rule import Coords, Kind

if TYPE_CHECKING:
    from loci.streaming.session import Session

KIND = "world-model"


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
        if self.memory.joint and self.dit.camera == "rotary" and self.memory.placement != "suffix":
            raise LociError(
                f"placement '{self.memory.placement}' would change nothing: it is a place in time, "
                "and the angles of camera 'rotary' know none; leave it out, or use camera 'inject'"
            )

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
        ins, outs = config.dit.in_channels, config.dit.out_channels
        if channels != ins or outs not in (0, channels):
            raise LociError(
                f"the codec has {channels} channels, the transformer {ins} in and {outs} out; give "
                "all three the same number (or 0 out, where no frames are predicted)"
            )
        _, rows, cols = config.dit.patch
        if height % rows or width % cols:
            raise LociError(
                f"latents of {height}x{width} do not split into patches of {rows}x{cols}; "
                "change the camera size or the patch"
            )
        self.grid = (height // rows, width // cols)
        self._build_memory(config.memory)

    def _build_memory(self, memory: Memory) -> None:
        """What a memory learns beside its gists. Raises LociError where it does not fit."""
        dit, grid = self.config.dit, self.grid
        if memory.joint and (grid[0] % memory.shrink or grid[1] % memory.shrink):
            raise LociError(
                f"frames of {grid[0]}x{grid[1]} tokens do not shrink by {memory.shrink} a side; "
                "choose a compression that divides them"
            )
        self.small = (grid[0] // memory.shrink, grid[1] // memory.shrink)
        self.mixer = memory.mixer(self.latent_shape[0])
        found = {
            layer: memory.carry(layer, dit.dim, dit.num_heads, grid)
            for layer in range(-1, dit.num_layers)
        }
        self.carries = {layer: carry for layer, carry in found.items() if carry is not None}
        self.carry = nn.ModuleDict({f"block{k}": carry for k, carry in self.carries.items()})
        if self.carries and (memory.gists or memory.joint):
            raise LociError(
                f"memory row '{type(memory).__name__}' carries a state beside gists or joint "
                "frames; choose one of them"
            )

    @property
    def tokens(self) -> int:
        """Tokens of a frame, L."""
        return self.grid[0] * self.grid[1]

    @property
    def writes(self) -> bool:
        """Whether written frames go through the network: somebody sees or carries them."""
        plan = self.config.memory.plan()
        kept = (plan.clean.recent, plan.clean.anchors, plan.gist.recent, plan.gist.anchors)
        return any(n != 0 for n in kept) or bool(self.carries)

    def clean_coords(self, frames: Tensor) -> Coords:
        """Coordinates of written frames (F,), each followed by its gists."""
        nobody = torch.full_like(frames, -1)
        grid = Coords.grid(frames, self.grid, Kind.CLEAN, frames, nobody)
        gists = self.config.memory.gists
        if not gists:
            return grid
        marks = Coords.grid(frames, (1, gists), Kind.GIST, frames, nobody)
        return _interleave(grid, marks, len(frames))

    def chunk_coords(self, starts: Tensor, span: int) -> Coords:
        """Coordinates of chunks that cover `span` frames from `starts` (G,) on, each followed by
        the frames that stand beside it."""
        memory, groups = self.config.memory, torch.arange(len(starts), device=starts.device)

        def grid(first: Tensor, count: int, shape: tuple[int, int], kind: Kind) -> Coords:
            frames = (first[:, None] + torch.arange(count, device=starts.device)).flatten()
            now, group = (x.repeat_interleave(count) for x in (starts - 1, groups))
            return Coords.grid(frames, shape, kind, now, group)

        noisy = grid(starts, span, self.grid, Kind.NOISY)
        if not memory.mixed:
            return noisy
        first = starts - memory.mixed if memory.placement == "prefix" else starts + span
        return _interleave(noisy, grid(first, memory.mixed, self.small, Kind.CONTEXT), len(starts))

    def clean_segment(
        self, latents: Tensor, poses: Tensor, coords: Coords, time: Tensor | None = None,
    ) -> Segment:
        """Frames (B, F, C, h, w) at relative poses (B, F, 4, 4), with their gists, at time 0."""
        tokens = self.dit.patchify(latents)
        bank = self.gist_bank.to(tokens.dtype).expand(*tokens.shape[:2], -1, -1)
        if time is None:
            time = torch.zeros(tokens.shape[:2], device=latents.device)
        rays = token_rays(self.config.camera, self.grid, len(self.gist_bank), poses.device)
        return Segment(
            torch.cat([tokens, bank], dim=2), time, self._angles(coords, [(poses, rays)]), 1,
            self._motion(poses), silent=self.config.dit.num_layers - 1 not in self.carries,
        )

    def chunk_segment(
        self, noisy: Tensor, poses: Tensor, coords: Coords, time: Tensor, picked: Frames | None
    ) -> Segment:
        """Chunks (B, G, n, C, h, w) being denoised at poses (B, G, n, 4, 4), times (B, G).

        picked: frames of the past (rows B * G) that go beside them, of a joint memory.
        """
        batch, span = len(noisy), noisy.shape[2]
        levels = time[..., None].expand(-1, -1, span).flatten(0, 1)
        chunk = Frames(noisy.flatten(0, 1), poses.flatten(0, 1), levels)
        tokens, where = self.dit.patchify(chunk.latents), chunk.poses
        device = poses.device
        places = [(chunk.poses, token_rays(self.config.camera, self.grid, device=device))]
        if picked is not None:
            context = picked if self.mixer is None else self.mixer(picked, chunk)
            rays = token_rays(self.config.camera, self.small, device=device)
            places.append((context.poses, rays))
            # Tokens of one run share a timestep: runs are as long as the smaller kind of frame.
            beside = self.dit.patchify(context.latents)
            runs = tokens.shape[2] // beside.shape[2]
            tokens = torch.cat([tokens.reshape(len(tokens), -1, *beside.shape[2:]), beside], dim=1)
            levels = torch.cat([levels.repeat_interleave(runs, dim=1), context.time], dim=1)
            where = torch.cat([where.repeat_interleave(runs, dim=1), context.poses], dim=1)
        return Segment(
            tokens.reshape(batch, -1, *tokens.shape[2:]), levels.reshape(batch, -1),
            self._angles(coords, places, batch), levels.shape[1],
            self._motion(where.reshape(batch, -1, 4, 4)),
            heard=None if picked is None else span * self.tokens // tokens.shape[2],
        )

    def _angles(
        self, coords: Coords, places: list[tuple[Tensor, Tensor]], batch: int | None = None
    ) -> Tensor:
        """Rotary angles of tokens at `coords`: of the poses and rays of `places`, side by side,
        or Wan's own. `batch`: rows, where those of the places are its groups."""
        if self.config.dit.camera == "rotary":
            parts = [
                camera_angles(poses, rays, self.config.dit.head_dim) for poses, rays in places
            ]
            angles = torch.cat(parts, dim=1)
            return angles if batch is None else angles.reshape(batch, -1, angles.shape[-1])
        # Gists stand at one marker outside the grid, as in MemoryWAM.
        away = coords.kind == int(Kind.GIST)
        placed = Coords(
            coords.frame, coords.row.masked_fill(away, -1), coords.col.masked_fill(away, -1),
            coords.kind, coords.now, coords.group,
        )
        angles = wan_angles(placed, self.config.dit.head_dim, self.config.dit.theta)
        return angles if angles.dim() == 3 else angles[None]

    def _motion(self, poses: Tensor) -> Tensor | None:
        return twelve_numbers(poses) if self.config.dit.camera == "inject" else None

    def head(self, tokens: Tensor, time: Tensor, span: int) -> Tensor:
        """Tokens of chunks at times (B, G) -> the network's output (B, G, span, C, h, w)."""
        batch, groups = time.shape
        noisy = tokens.reshape(batch, groups, -1, tokens.shape[-1])[:, :, : span * self.tokens]
        out = self.dit.predict(
            noisy.reshape(batch, groups * span, self.tokens, -1),
            time.repeat_interleave(span, dim=1), *self.latent_shape[1:],
        )
        return out.unflatten(1, (groups, span))

    def session(
        self, batch: int = 1, capacity: int | None = None, gradients: bool = False
    ) -> Session:
        """A fresh memory for `batch` streams; see `Session` for the rest."""
        from loci.streaming.session import Session

        return Session(self, batch, capacity, gradients)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32, **notes: object) -> None:
        save_checkpoint(path, KIND, self.config, self.state_dict(), dtype=dtype, **notes)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The model in a checkpoint, a file or the name of one that ships, in fp32, in evaluation
        mode."""
        config, tensors, _ = load_checkpoint(path, KIND)
        model = cls(WorldConfig.from_dict(config))
        load_into(model, tensors, path)
        return model.eval()


def _interleave(a: Coords, b: Coords, groups: int) -> Coords:
    """Tokens of `groups` groups: those of `a` that belong to a group, then those of `b`."""
    first = torch.arange(len(a), device=a.frame.device).view(groups, -1)
    second = torch.arange(len(b), device=a.frame.device).view(groups, -1) + len(a)
    return Coords.cat([a, b])[torch.cat([first, second], dim=1).flatten()]
