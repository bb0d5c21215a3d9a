"""Context memory in the joint form: past frames and chunk go through the network together.

Echo-Memory (arXiv 2606.09803): clean context frames stand beside the target, both see each other,
and everything is computed again at every denoising step. The cached form (`context.py`) computes a
context frame once, when it is written. The released rows are settings of this form
(`models/weights/echo_rows.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loci.config import added_field
from loci.errors import LociError, did_you_mean
from loci.geometry import Camera
from loci.memory.base import together
from loci.memory.context import BY_VIEW, Context
from loci.rules.rule import Rule

PLACEMENTS = ("prefix", "suffix")
TIMESTEPS = ("clean", "chunk")
ORDERS = ("time", "anchor", "newest", "before")


@dataclass(frozen=True, kw_only=True)
class Joint(Context, name="joint"):
    """The first frame, `frames` - 1 retrieved ones and the last, raw, beside each chunk.

    placement: "suffix" puts them behind the chunk in time, "prefix" before it. It moves Wan's own
    rotary positions and nothing else: the angles of camera rays know no time, and a world model
    with camera "rotary", as in the recipes, refuses "prefix", unless a state runs over them.

    order: "time" as above. The others are those of Echo-Memory's release, where a chunk begins with
    the last frame once more, and K counts what stands beside it: "anchor", the last frame and then
    those that are retrieved, in the order in which they are; "newest", the last K, newest first;
    "before", the K before the last, oldest first. Where there are fewer frames fewer stand there.
    timestep: of their tokens, "clean" (0) or "chunk", the chunk's own, as released. posed: whether
    the network is told where they stand; twelve zeros are in place of their motion otherwise.
    """

    placement: str = "suffix"
    order: str = added_field("time")
    timestep: str = added_field("clean")
    posed: bool = added_field(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, known in (
            ("placement", PLACEMENTS), ("timestep", TIMESTEPS), ("order", ORDERS)
        ):
            if (given := getattr(self, what)) not in known:
                raise LociError(f"unknown {what} '{given}'{did_you_mean(given, known)}")
        if self.order != "time" and self.retrieval in BY_VIEW:
            raise LociError(f"retrieval '{self.retrieval}' may find fewer frames in one stream "
                            f"than in another, and order '{self.order}' fills none up; use overlap")
        if self.order in ("newest", "before") and self.drop:
            raise LociError(f"order '{self.order}' retrieves nothing that could be dropped; leave "
                            "drop out")

    @property
    def joint(self) -> bool:
        return True

    @property
    def retrieves(self) -> int:
        return self.frames - 1 if self.order in ("time", "anchor") else 0

    @property
    def mixed(self) -> int:
        return self.frames + 1 if self.order == "time" else self.frames

    def beside_after(self, written: int) -> int:
        """Raw frames that stand beside a chunk which follows `written` frames."""
        if self.order == "time":
            return self.frames + 1
        there = max(1, written - 1) if self.order == "before" else written
        return min(self.frames, there)

    def mixed_after(self, written: int) -> int:
        return self.mixed if self.order == "time" else self.beside_after(written)

    def select(self, past: Tensor, targets: Tensor, camera: Camera) -> Tensor | None:
        if self.order != "anchor":
            return super().select(past, targets, camera)
        # Retrieval passes the first frame over, which is no anchor here: another stands before it.
        found = super().select(torch.cat([past[:, :1], past], dim=1), targets, camera)
        return None if found is None else found - 1

    def arrange(self, found: Tensor, count: int) -> Tensor:
        if self.order == "time":
            return super().arrange(found, count)
        last = torch.tensor([[count - 1]], device=found.device).expand(len(found), -1)
        if self.order == "anchor":
            return torch.cat([last, found[:, (found >= 0).all(0)]], dim=1)
        back = torch.arange(self.beside_after(count), device=found.device)
        if self.order == "before":
            back = back.flip(0) + (count > 1)
        return last - back

    def unpicked(self, arranged: Tensor) -> Tensor:
        if self.order == "time":
            return super().unpicked(arranged)
        return arranged[..., :1].expand_as(arranged)

    def rule(self) -> Rule:
        return together
