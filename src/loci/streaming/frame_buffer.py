"""What a session keeps of the frames themselves, for memories that retrieve.

Where each frame stood, and for joint memories its latents too, which go through the network again
beside every chunk that picks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from loci.errors import LociError
from loci.geometry import Camera
from loci.memory.base import Memory, pick
from loci.memory.frames import Frames
from loci.streaming.kv_cache import ordinary


class Bank:
    """Poses (B, N, 4, 4) relative to each stream's first frame, on the CPU in fp64, and latents
    (B, N, C, h, w); N is 0 for what this memory does without."""

    @ordinary()
    def __init__(
        self, batch: int, capacity: int, latent_shape: Sequence[int], *, poses: bool,
        latents: bool, device: torch.device, dtype: torch.dtype,
    ):
        self.wanted = {"poses": poses, "latents": latents}
        self.poses = torch.zeros(batch, capacity * poses, 4, 4, dtype=torch.float64)
        self.latents = torch.zeros(
            batch, capacity * latents, *latent_shape, device=device, dtype=dtype
        )

    def put(self, names: Sequence[int], at: Sequence[int], poses: Tensor, latents: Tensor) -> None:
        """Frames of the streams `names`, from frame at[row] on."""
        count = latents.shape[1]
        self._grow(max(at) + count)
        for part, new in (("poses", poses), ("latents", latents)):
            if not self.wanted[part]:
                continue
            held = getattr(self, part)
            new = new.to(held.device, held.dtype)
            if new.requires_grad or held.requires_grad:
                # Earlier passes may have saved the buffer for their backward.
                with ordinary():
                    held = held.clone()
                    setattr(self, part, held)
            for row, name in enumerate(names):
                held[name, at[row] : at[row] + count] = new[row]

    def beside(
        self, memory: Memory, camera: Camera, names: Sequence[int], written: Sequence[int],
        targets: Tensor,
    ) -> Frames:
        """The frames that a joint memory puts beside the chunks of streams `names`, a row each.

        written: frames of each of them; targets (B, n, 4, 4): poses of their chunks.
        """
        device, latents, poses = self.latents.device, [], []
        for row, (name, count) in enumerate(zip(names, written, strict=True)):
            past = self.poses[name, :count]
            (picks,) = pick(memory, past[None], targets[row : row + 1], camera)
            latents.append(self.latents[name, picks.to(device)])
            poses.append(past[picks])
        where = torch.stack(poses).to(device)
        return Frames(torch.stack(latents), where, torch.zeros(where.shape[:2], device=device))

    def snapshot(self, frames: int) -> dict[str, Tensor]:
        """Copies of the first `frames` frames."""
        return {
            part: getattr(self, part)[:, : frames * wanted].clone()
            for part, wanted in self.wanted.items()
        }

    def check(self, tree: Mapping[str, Tensor], frames: int) -> None:
        """LociError where a snapshot holds other frames than this memory's `frames` ones."""
        for part, wanted in self.wanted.items():
            held = getattr(self, part)
            shape = (held.shape[0], frames * wanted, *held.shape[2:])
            if part not in tree or tree[part].shape != shape:
                there = tuple(tree[part].shape) if part in tree else "missing"
                raise LociError(
                    f"the memory of another row: {part} are {there}, not {shape}; "
                    "restore it where it was taken"
                )

    @ordinary()
    def restore(self, tree: Mapping[str, Tensor]) -> None:
        """Take over a snapshot that `check` let pass."""
        self._grow(max(tree["poses"].shape[1], tree["latents"].shape[1]))
        for part in self.wanted:
            held, kept = getattr(self, part), tree[part].shape[1]
            held = torch.zeros_like(held) if held.requires_grad else held.zero_()
            held[:, :kept] = tree[part]
            setattr(self, part, held)

    def forget(self, name: int) -> None:
        """Empty one stream."""
        for part in self.wanted:
            held = getattr(self, part)
            if held.requires_grad:
                # What other streams hold keeps its graph, which may have saved the buffer.
                with ordinary():
                    held = held.clone()
                    held[name] = 0
            else:
                held[name] = 0
            setattr(self, part, held)

    def leave_graph(self) -> None:
        """Where all streams are empty, the graph that made the frames must not live on."""
        with ordinary():
            self.latents = self.latents.detach()

    def bytes(self, frames: int) -> int:
        """Bytes of the latents of `frames` frames."""
        if not self.wanted["latents"]:
            return 0
        return frames * self.latents[0, 0].numel() * self.latents.element_size()

    @ordinary()
    def _grow(self, frames: int) -> None:
        for part, wanted in self.wanted.items():
            held = getattr(self, part)
            have = held.shape[1]
            if wanted and frames > have:
                more = max(frames, 2 * have) - have
                setattr(self, part, pad(held, (0, 0) * (held.dim() - 2) + (0, more)))
