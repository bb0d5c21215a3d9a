"""How chunks of noise go through the network, with the raw frames that stand beside them and what
enters through ports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from loci.attention.cross import Cross, CrossKV, CrossPair
from loci.memory.base import Memory
from loci.memory.frames import Frames
from loci.memory.stores import Conditioning, Evidence
from loci.models.trunk import TokenStream
from loci.rules.rule import Coords

if TYPE_CHECKING:
    from loci.models.world import WorldModel


@dataclass(frozen=True)
class ChunkLayout:
    """Where the tokens of G chunks a row stand, worked out once for all noise levels.

    poses (B, G, n, 4, 4); beside: frames next to the chunks, rows B * G, as the network takes them
    in, or as they were picked where the mixer has to see the noise (`chooses`); rotary, motion and
    modulation of what does not depend on it. channels, render, further: what enters through ports,
    rows B * G. memory: tokens (B * G, S, D) that sum the frames up, and as blocks read them behind
    the text.
    """

    poses: Tensor
    coords: Coords
    rotary: Tensor
    motion: Tensor | None
    beside: Frames | None = None
    chooses: bool = False
    modulation: Tensor | None = None
    channels: Tensor | None = None
    render: Tensor | None = None
    further: CrossKV | None = None
    memory: Tensor | None = None
    as_text: Cross | None = None


class ChunkPath:
    """Of one world model."""

    def __init__(self, model: WorldModel):
        self.model, self.dit = model, model.dit
        self.mixer, self.positions = model.mixer, model.positions

    @property
    def joint(self) -> Memory:
        """The part of the memory that puts frames beside a chunk, where one does."""
        memory = self.model.config.memory
        return memory.beside or memory

    def layout(self, poses: Tensor, coords: Coords, evidence: Evidence) -> ChunkLayout:
        """Of chunks at poses (B, G, n, 4, 4) and what stands beside them."""
        device, beside = self.model.gist_bank.device, evidence.frames
        poses = poses.to(device)
        rows = poses.flatten(0, 1)
        chooses, modulation = bool(getattr(self.mixer, "chooses", False)), None
        if beside is not None:
            beside = self.positions.of_beside(poses, beside.map(lambda part: part.to(device)))
            if self.mixer is not None and not chooses:
                beside = self.mixer(beside, Frames(beside.latents, rows, beside.time))
            if not chooses and self.joint.timestep == "clean":
                modulation = self.dit.modulate(beside.time)[1]
        ports = evidence.conditioning or Conditioning()
        channels, render, tokens, present = (
            None if part is None else part.flatten(0, 1).to(device)
            for part in (ports.channels, ports.render, ports.tokens, ports.present)
        )
        further = None
        if tokens is not None:
            further = self.dit.further.encode(tokens.to(self.model.gist_bank), present)
        places = self.positions.of_chunks(poses, coords, None if chooses else beside)
        memory, as_text, summary = None, None, self.model.summary
        if summary is not None and beside is not None:
            memory = summary(self.dit.patchify(beside.latents))
            if summary.as_text:
                bias = memory.new_zeros(len(memory), 1, 1, memory.shape[1])
                as_text = self.dit.read(memory, bias, cached=not torch.is_grad_enabled())
        return ChunkLayout(
            poses, coords, *places, beside, chooses, modulation, channels, render, further, memory,
            as_text,
        )

    def stream(
        self, noisy: Tensor, layout: ChunkLayout, six: Tensor, text: Cross | None = None,
        recompute: bool = False,
    ) -> TokenStream:
        """Chunks (B, G, n, C, h, w) being denoised; six (B or 1, G, 6, D): of their times.
        recompute: as for `mot.run`."""
        batch, groups, span = noisy.shape[:3]
        tokens = self.dit.patchify(noisy.flatten(0, 1))  # (B * G, n, L, D)
        if layout.channels is not None:
            more = layout.channels.to(tokens)
            tokens = tokens + self.dit.patchify(more, self.dit.channel_embedding)
        noise, levels = tokens, six[:, :, None].expand(batch, groups, span, -1, -1)
        six, rotary, motion, beside, runs = levels, layout.rotary, layout.motion, layout.beside, 1
        if beside is not None:
            modulation = layout.modulation
            if layout.chooses:
                chunk = Frames(noisy.flatten(0, 1), layout.poses.flatten(0, 1), beside.time)
                beside = self.mixer(beside, chunk)
                if self.joint.timestep == "clean":
                    modulation = self.dit.modulate(beside.time)[1]
                rotary, motion = self.positions.of_chunks(layout.poses, layout.coords, beside)
            # Tokens of one run share a timestep: runs are as long as the smaller kind of frame.
            others = self.dit.patchify(beside.latents)
            weights = self.joint.weigh(others, noise)
            if weights is not None:
                others = others * weights[..., None, None]
            if layout.memory is not None:
                tokens = self.model.summary.read(tokens, layout.memory)
            runs = tokens.shape[2] // others.shape[2]
            tokens = torch.cat([tokens.reshape(len(tokens), -1, *others.shape[2:]), others], dim=1)
            context = levels[:, :, :1].expand(-1, -1, len(beside), -1, -1)
            if modulation is not None:
                context = modulation.unflatten(0, (batch, groups))
            six = torch.cat([levels.repeat_interleave(runs, dim=2), context], dim=2)
        if layout.as_text is not None:
            text = behind(text, layout.as_text)
        size = six.shape[2]
        # A state that runs over all frames needs them in the last block, too.
        scanned = {layer for layer, _ in self.model.scans}
        whole = beside is None or len(self.dit.blocks) - 1 in scanned
        stream = TokenStream(
            self.dit, tokens.reshape(batch, groups * size, *tokens.shape[2:]), rotary,
            six.flatten(1, 2), (span, self.model.tokens), size, motion, text,
            outputs=None if whole else span * runs,
            within=partial(self._scanned, size, size - span) if scanned else None,
        )
        if layout.render is None and layout.further is None:
            return stream
        return replace(stream, after=self._after(stream, noise, levels, layout, recompute))

    def _scanned(self, size: int, beside: int, layer: int, x: Tensor) -> Tensor:
        """Tokens x (B, G * size, L, D) of chunks with `beside` frames behind each, and what states
        that begin anew add to them in block `layer`."""
        states = [state for (at, _), state in self.model.scans.items() if at == layer]
        if not states:  # as in the last block, maybe, where frames beside are gone by now
            return x
        frames = x.unflatten(1, (-1, size)).flatten(0, 1)
        before = self.model.config.memory.placement == "prefix"
        frames = frames.roll(beside, 1) if before else frames
        for state in states:
            frames = frames + state.restarted(frames)
        frames = frames.roll(-beside, 1) if before else frames
        return frames.reshape(x.shape)

    def _after(
        self, stream: TokenStream, noise: Tensor, levels: Tensor, layout: ChunkLayout,
        recompute: bool,
    ) -> Callable[[int, Tensor], Tensor]:
        """What evidence adds to the tokens of chunks after each block: of the noise (B * G, n, L,
        D) at levels (B, G, n, 6, D)."""
        added: list[Tensor] = []
        if layout.render is not None:
            batch = len(levels)
            rotary = stream.rotary_of_frames.expand(batch, -1, -1, -1).flatten(0, 1)
            alone = TokenStream(
                self.dit, noise, rotary, levels.flatten(0, 1), stream.frames,
                noise.shape[1], self.positions.motion(layout.poses.flatten(0, 1)), stream.text,
            )
            beside = self.dit.patchify(layout.render.to(noise))
            added = self.dit.branch(alone, beside, recompute)

        def after(layer: int, x: Tensor) -> Tensor:
            if layer < len(added):
                x = x + added[layer].reshape(x.shape)
            if layout.further is None:
                return x
            return self.dit.further(x.flatten(2, 3), layout.further, layer).view_as(x)

        return after


def behind(text: Cross | None, more: Cross) -> Cross:
    """A text of rows B, or B * G, and behind it what rows B * G read of their own."""
    if text is None:
        return more
    groups = len(more.bias) // len(text.bias)
    if groups > 1:
        text = text.rows([row for row in range(len(text.bias)) for _ in range(groups)])
    return CrossPair(text, more)
