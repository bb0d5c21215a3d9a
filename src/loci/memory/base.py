"""The memory contract.

A mechanism is a frozen configuration that answers a few questions, most of which have a default:

- `rule()`: who sees whom. The streaming cache, the training mask and the fast forms follow.
- `gists`: how many learnable tokens summarise each frame (0: none).
- `executed`: whether actions that a robot carried out are kept as well.
- `select(...)`: which past frames a chunk that is about to be generated retrieves, if any.
- `joint`: whether these go through the network beside the chunk, as raw frames that both see the
  chunk and are seen by it, maybe after a `mixer` made fewer of them.
- `carry(...)`: what state a block carries from frame to frame, if any.

Everything else (`init`, `write`, `read`, snapshots, files) is the same for all of them and lives
in `session.py`. A new mechanism is one file like `none.py` and one line in `memory/__init__.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from loci.config import Config
from loci.geometry import Camera
from loci.memory.recurrent import Carry
from loci.memory.registry import VARIABLE, load_rows
from loci.rules.rule import Kind, Plan, Rule, compile_plan, key, query, same_group

# What holds for every mechanism: tokens of one chunk see each other, and nobody sees the noise of
# anybody else.
_chunk = (Kind.NOISY, Kind.ACTION, Kind.CONTEXT, Kind.EXECUTED)
together = query(*_chunk) & key(*_chunk) & same_group


@dataclass(frozen=True, kw_only=True)
class Memory(Config, family=True):
    """One row of a study: what is kept of the past, and who may look at it."""

    elsewhere: ClassVar[str] = f"; if a file of yours defines it, name that file in {VARIABLE}"

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        load_rows()
        return super().from_dict(data)

    @property
    def gists(self) -> int:
        """Learnable summary tokens a frame, M."""
        return 0

    @property
    def executed(self) -> bool:
        """Whether a robot's executed actions are kept; see `action_history.py`."""
        return False

    @property
    def retrieves(self) -> int:
        """Past frames that `select` returns for a chunk, at most."""
        return 0

    @property
    def growth(self) -> str:
        """How the state grows with the frames, a promise that the conformance tests hold it to:
        "constant", "logarithmic" or "linear"."""
        plan = self.plan()
        kinds = [plan.clean.growth, "linear" if self.joint else "constant"]
        kinds += [plan.gist.growth] if self.gists else []
        kinds += [plan.executed.growth] if self.executed else []
        return next(g for g in ("linear", "logarithmic", "constant") if g in kinds)

    @property
    def bounded(self) -> bool:
        """Whether the state stops growing."""
        return self.growth == "constant"

    def tokens_held(self, frames: int, tokens: int, actions: int = 0) -> int:
        """Tokens that a stream holds after `frames` frames of `tokens` tokens each, and chunks of
        `actions` actions between them."""
        plan, raw = self.plan(), frames if self.joint else 0
        chunks = plan.executed.held(max(frames - 1, 0)) if self.executed else 0
        whole = (plan.clean.held(frames) + raw) * tokens
        return whole + plan.gist.held(frames) * self.gists + chunks * actions

    def plan(self) -> Plan:
        """What a stream keeps, and for how long. It is read off the rule; a mechanism overrides it
        to keep less, where frames leave in another order than they came."""
        return _read_off(self)

    def rule(self) -> Rule:
        """Who sees whom."""
        raise NotImplementedError(f"{type(self).__name__} must say who sees whom: define rule()")

    def select(self, past: Tensor, targets: Tensor, camera: Camera) -> Tensor | None:
        """Frames to retrieve for a chunk.

        past: (B, N, 4, 4) poses of all frames written so far; targets: (B, T, 4, 4) poses of the
        chunk, both relative to each stream's first frame. Returns (B, n) distinct frame indices,
        n at most `retrieves`, or None where nothing is ever retrieved.
        """
        return None

    @property
    def drop(self) -> float:
        """Share of the training episodes that go without what `select` finds."""
        return 0.0

    @property
    def joint(self) -> bool:
        """Whether raw frames of the past stand beside each chunk: the first, the `retrieves`
        selected ones in the order of time, and the last."""
        return False

    @property
    def placement(self) -> str:
        """Where joint frames stand in time for Wan's own rotary positions: "suffix", right after
        the chunk (Echo-Memory), or "prefix", right before it. Where angles come from camera rays
        (`WanConfig.camera` "rotary") there is no such place, and a world model takes "suffix" alone
        so that no two rows differ by name only."""
        return "suffix"

    def mixer(self, channels: int) -> nn.Module | None:
        """What makes other frames of the joint ones: a module from (picked, chunk), two `Frames`
        of the same rows, to `Frames` of `mixed` frames, `shrink` times smaller a side. `picked`
        holds `retrieves` + 2 frames, of which the last is the one before the chunk."""
        return None

    @property
    def mixed(self) -> int:
        """Frames that stand beside a chunk in the end."""
        return self.retrieves + 2 if self.joint else 0

    @property
    def shrink(self) -> int:
        """How many times smaller than a frame these are, a side."""
        return 1

    def carry(self, layer: int, width: int, heads: int, grid: tuple[int, int]) -> Carry | None:
        """What block `layer` carries (None: nothing); -1 stands before the first block.

        width: channels of a token; heads: of the attention; grid: rows and columns of a frame.
        """
        return None


@cache
def _read_off(memory: Memory) -> Plan:
    return compile_plan(memory.rule())


def pick(memory: Memory, past: Tensor, targets: Tensor, camera: Camera) -> Tensor:
    """The frames that stand beside a chunk, (B, retrieves + 2), in the order of time.

    past (B, N, 4, 4) and targets (B, T, 4, 4) as for `select`. Where the past is too short, the
    first frame stands in for those that are missing.
    """
    rows, count = past.shape[:2]
    found = memory.select(past, targets, camera)
    empty = torch.zeros(rows, 0, dtype=torch.long, device=past.device)
    found = empty if found is None else found.sort(dim=1).values
    first = empty.new_zeros(rows, 1 + memory.retrieves - found.shape[1])
    return torch.cat([first, found, empty.new_full((rows, 1), count - 1)], dim=1)
