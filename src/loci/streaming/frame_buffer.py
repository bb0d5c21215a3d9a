"""What a stream keeps of the frames themselves, for memories that retrieve.

Where each frame stood, and for joint memories its latents too, which go through the network again
beside every chunk that picks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from loci.errors import LociError
from loci.memory.base import Memory, pick
from loci.memory.frames import Frames
from loci.memory.stores import Episode, Evidence, Query, Setting, Store, Tree, Write
from loci.streaming.kv_cache import ordinary


class FrameBuffer(Store):
    """Poses (B, N, 4, 4) relative to each stream's first frame, on the CPU in fp64, and latents
    (B, N, C, h, w), where frames go through the network again; else N is 0 for them.

    frames: as many fit before the buffers grow, by doubling.
    """

    name = "frames"

    @ordinary()
    def __init__(self, memory: Memory, setting: Setting, frames: int = 0):
        self.beside, self.retriever = memory.beside, memory.retriever
        self.setting = setting
        batch, kept = setting.batch, self.beside is not None
        self.poses = torch.zeros(batch, frames, 4, 4, dtype=torch.float64)
        self.latents = torch.zeros(
            batch, frames * kept, *setting.latent_shape, device=setting.device, dtype=setting.dtype
        )
        self.wanted = {"poses": True, "latents": kept}
        self.written = [0] * batch

    def write(self, write: Write, found: Evidence) -> Evidence:
        """Frames stand behind those that are there."""
        frames = write.frames
        if frames is None:
            return found
        count = len(frames)
        self._grow(max(write.written) + count)
        for part, new in (("poses", frames.poses), ("latents", frames.latents)):
            if not self.wanted[part]:
                continue
            held = getattr(self, part)
            new = new.to(held.device, held.dtype)
            if new.requires_grad or held.requires_grad:
                # Earlier passes may have saved the buffer for their backward.
                with ordinary():
                    held = held.clone()
                    setattr(self, part, held)
            for row, (name, at) in enumerate(zip(write.streams, write.written, strict=True)):
                held[name, at : at + count] = new[row]
        for name, at in zip(write.streams, write.written, strict=True):
            self.written[name] = at + count
        return found

    def query(self, query: Query, found: Evidence) -> Evidence:
        """The frames that a chunk retrieves from the cache, and those that stand beside it."""
        if query.poses is None:
            return found
        if self.retriever is not None:
            found = replace(found, selected=self._selected(self.retriever, query))
        if self.beside is None:
            return found
        device, latents, poses = self.latents.device, [], []
        for row, (name, count) in enumerate(zip(query.streams, query.written, strict=True)):
            past = self.poses[name, :count]
            (picks,) = pick(self.beside, past[None], query.poses[row : row + 1],
                            self.setting.camera)
            latents.append(self.latents[name, picks.to(device)])
            poses.append(past[picks])
        where = torch.stack(poses).to(device)
        clean = torch.zeros(where.shape[:2], device=device)
        return replace(found, frames=Frames(torch.stack(latents), where, clean))

    def _selected(self, memory: Memory, query: Query) -> Tensor | None:
        """Booleans (B, 1, F), F the frames of the longest stream."""
        table = torch.zeros(len(query.streams), 1, max(query.written), dtype=torch.bool)
        together: dict[int, list[int]] = {}
        for row, count in enumerate(query.written):
            together.setdefault(count, []).append(row)
        for count, rows in together.items():
            past = self.poses[[query.streams[row] for row in rows], :count]
            picks = memory.select(past, query.poses[rows], self.setting.camera)
            if picks is None:
                return None
            table[torch.tensor(rows)[:, None], 0, picks] = True
        return table

    def packed(self, episode: Episode, found: Evidence) -> Evidence:
        """The same for every chunk, of a part of the episode each."""
        frames, dropped = episode.frames, episode.dropped
        for chunks in episode.chunks:
            if chunks.poses is None:
                continue
            if self.retriever is not None:
                found = replace(found, selected=retrieved(
                    self.retriever, frames.poses, chunks.before, chunks.poses, self.setting, dropped
                ))
            if self.beside is not None:
                found = replace(found, frames=beside(
                    self.beside, frames, chunks.before, chunks.poses, self.setting, dropped
                ))
        return found

    def reset(self, streams: Sequence[int]) -> None:
        for name in streams:
            self.written[name] = 0
        for part in self.wanted:
            held = getattr(self, part)
            if held.requires_grad:
                # What other streams hold keeps its graph, which may have saved the buffer.
                with ordinary():
                    held = held.clone()
                    held[list(streams)] = 0
            else:
                held[list(streams)] = 0
            setattr(self, part, held)

    def leave_graph(self) -> None:
        with ordinary():
            self.latents = self.latents.detach()

    def snapshot(self, written: Sequence[int]) -> Tree:
        """poses and latents of the frames, as many as the longest stream has."""
        return {
            part: getattr(self, part)[:, : max(written)].clone()
            for part, wanted in self.wanted.items() if wanted
        }

    def check(self, tree: Mapping[str, Tensor], written: Sequence[int]) -> None:
        for part, wanted in self.wanted.items():
            held = getattr(self, part)
            shape = (held.shape[0], max(written), *held.shape[2:])
            there = tuple(tree[part].shape) if part in tree else None
            if there != (shape if wanted else None):
                raise LociError(
                    f"the memory of another row: {part} are {there or 'missing'}, not "
                    f"{shape if wanted else 'kept'}; restore it where it was taken"
                )

    @ordinary()
    def restore(self, tree: Mapping[str, Tensor], written: Sequence[int]) -> None:
        self._grow(max(written))
        self.written = [int(count) for count in written]
        for part, wanted in self.wanted.items():
            held = getattr(self, part)
            held = torch.zeros_like(held) if held.requires_grad else held.zero_()
            if wanted:
                held[:, : max(written)] = tree[part]
            setattr(self, part, held)

    def bytes(self, stream: int) -> int:
        """Bytes of the latents of a stream."""
        each = self.latents.shape[2:].numel() * self.latents.element_size()
        return self.written[stream] * each if self.wanted["latents"] else 0

    @ordinary()
    def _grow(self, frames: int) -> None:
        for part, wanted in self.wanted.items():
            held = getattr(self, part)
            have = held.shape[1]
            if wanted and frames > have:
                more = max(frames, 2 * have) - have
                setattr(self, part, pad(held, (0, 0) * (held.dim() - 2) + (0, more)))


def retrieved(
    memory: Memory, past: Tensor, before: Sequence[int], targets: Tensor, setting: Setting,
    dropped: Tensor | None = None,
) -> Tensor | None:
    """The frames that chunks retrieve from their past, (B, G, T) booleans, or None.

    past (B, T, 4, 4) of an episode; chunk g knows of the frames up to before[g] and stands at
    targets[:, g] (B, n, 4, 4). dropped (B,): episodes that retrieve nothing.
    """
    table = torch.zeros(
        len(past), len(before), past.shape[1], dtype=torch.bool, device=past.device
    )
    for group, last in enumerate(before):
        picks = memory.select(past[:, : last + 1], targets[:, group], setting.camera)
        if picks is None:
            return None
        table[:, group].scatter_(1, picks, True)
    return table if dropped is None else table & ~dropped[:, None, None].to(table.device)


def beside(
    memory: Memory, frames: Frames, before: Sequence[int], targets: Tensor, setting: Setting,
    dropped: Tensor | None = None,
) -> Frames:
    """The frames that stand beside chunks, rows B * G; arguments as for `retrieved`."""
    picks = torch.stack([
        pick(memory, frames.poses[:, : last + 1], targets[:, group], setting.camera)
        for group, last in enumerate(before)
    ], dim=1)  # (B, G, K)
    if dropped is not None:
        picks[..., :-1] = picks[..., :-1].masked_fill(dropped[:, None, None].to(picks.device), 0)
    rows = torch.arange(len(picks), device=picks.device)[:, None, None]

    def taken(part: Tensor) -> Tensor:
        return part[rows.to(part.device), picks.to(part.device)].flatten(0, 1)

    return Frames(taken(frames.latents), taken(frames.poses), taken(frames.time))
