"""Context memory in the joint form: past frames and chunk go through the network together.

Echo-Memory's released rows (arXiv 2606.09803): clean context frames stand beside the target, both
see each other, and everything is computed again at every denoising step. The cached form
(`context.py`) computes a context frame once, when it is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from loci.errors import LociError, did_you_mean
from loci.memory.base import together
from loci.memory.context import Context
from loci.rules.rule import Rule

PLACEMENTS = ("prefix", "suffix")


@dataclass(frozen=True, kw_only=True)
class Joint(Context, name="joint"):
    """The first frame, `frames` - 1 retrieved ones and the last, raw, beside each chunk.

    placement: "suffix" puts them behind the chunk in time, "prefix" before it. It moves Wan's own
    rotary positions and nothing else: the angles of camera rays know no time, and a world model
    with camera "rotary", as in the recipes, refuses "prefix".
    """

    placement: str = "suffix"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.placement not in PLACEMENTS:
            raise LociError(f"unknown placement '{self.placement}'"
                            f"{did_you_mean(self.placement, PLACEMENTS)}")

    @property
    def joint(self) -> bool:
        return True

    def rule(self) -> Rule:
        return together
