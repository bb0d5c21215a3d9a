"""The memory contract.

A mechanism is a frozen configuration that answers a few questions, most of which have a default:

- `rule()`: who sees whom. The streaming cache, the training mask and the fast forms follow.
- `gists`: how many learnable tokens summarise each frame (0: none).
- `executed`: whether actions that a robot carried out are kept as well.
- `select(...)`: which past frames a chunk that is about to be generated retrieves, if any, by where
  they stood; `views`: by what they saw.
- `joint`: whether these go through the network beside the chunk, as raw frames that both see the
  chunk and are seen by it, in the order of `arrange`, maybe after a `mixer` made fewer of them;
  their tokens may be weighed (`weigh`) and summed up (`summary`).
- `state(...)`: what a block carries from frame to frame, if any.
- `stores(...)`: what else a stream keeps, and answers a chunk from; `ports(...)` says through which
  ports of the video transformer that enters, `wants` what it has to be given of a frame.

Everything else (streams, snapshots, files, training) is the same for all of them. A new mechanism
is one file like `none.py` and one line in `memory/__init__.py`; several are joined by `Compose`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from loci.config import Config
from loci.errors import LociError
from loci.geometry import Camera
from loci.memory.ports import Ports
from loci.memory.recurrent import RecurrentState
from loci.memory.registry import VARIABLE, load_rows
from loci.memory.stores import Setting, Store
from loci.memory.views import ViewRule
from loci.rules.retention import Retention
from loci.rules.rule import CLASSES, Kind, Rule, key, query, same_group

# What holds for every mechanism: tokens of one chunk see each other, and nobody sees the noise of
# anybody else.
_chunk = (Kind.NOISY, Kind.ACTION, Kind.CONTEXT, Kind.EXECUTED)
together = query(*_chunk) & key(*_chunk) & same_group


@dataclass(frozen=True, kw_only=True)
class Memory(Config, family=True):
    """One row of a study: what is kept of the past, and who may look at it."""

    elsewhere: ClassVar[str] = f"; if a file of yours defines it, name that file in {VARIABLE}"

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "rule" in vars(cls):
            cls.rule = _checked_rule(cls.rule)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        load_rows()
        if isinstance(data, dict) and data.get("type") == "action-history" and "memory" in data:
            # Until memories were composed, action history was told what it stands beside.
            data = {"type": "compose", "members": [data["memory"], {"type": "action-history"}]}
        return super().from_dict(data)

    @property
    def parts(self) -> tuple[Memory, ...]:
        """The memories that it is composed of: itself, unless it is a `Compose`."""
        return (self,)

    @property
    def beside(self) -> Memory | None:
        """The part that puts raw frames beside each chunk, if one does."""
        return next((part for part in self.parts if part.joint), None)

    @property
    def retriever(self) -> Memory | None:
        """The part that retrieves frames from the cache, if one does."""
        return next((p for p in self.parts if p.retrieves and not p.joint), None)

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
        kept = self.retention()
        classes = ["constant", "linear" if self.joint else "constant"]
        classes += [kept.growth(kind) for kind in kept.kinds]
        return max(classes, key=CLASSES.index)

    @property
    def bounded(self) -> bool:
        """Whether the state stops growing."""
        return self.growth == "constant"

    def tokens_held(self, frames: int, tokens: int, actions: int = 0) -> int:
        """Tokens that a stream holds after `frames` frames of `tokens` tokens each, and chunks of
        `actions` actions between them; a raw frame counts as those that it will become."""
        kept, raw = self.retention(), frames if self.joint else 0
        sizes = {Kind.CLEAN: tokens, Kind.GIST: self.gists, Kind.EXECUTED: actions}
        return raw * tokens + sum(kept.kept(kind, frames) * sizes[kind] for kind in kept.kinds)

    def retention(self) -> Retention:
        """How long a stream keeps what was written: it follows from the rule. LociError for a rule
        that does not say how long it shows a key."""
        return _retention(self)

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
    def views(self) -> ViewRule | None:
        """The rule that picks frames by what they saw; None where `select` picks them, or nobody
        does."""
        return None

    @property
    def drop(self) -> float:
        """Share of the training episodes that go without what the memory retrieves or shows."""
        return 0.0

    @property
    def joint(self) -> bool:
        """Whether raw frames of the past stand beside each chunk: those of `arrange`."""
        return False

    def arrange(self, found: Tensor, count: int) -> Tensor:
        """Which of `count` frames stand beside a chunk that picked `found` (B, n): the first, those
        that were picked in the order of time, and the last, (B, retrieves + 2). The first stands in
        for those that are missing or -1."""
        found = found.clamp(min=0).sort(dim=1).values
        first = found.new_zeros(len(found), 1 + self.retrieves - found.shape[1])
        return torch.cat([first, found, found.new_full((len(found), 1), count - 1)], dim=1)

    def unpicked(self, arranged: Tensor) -> Tensor:
        """Frames (..., K) of `arrange` as they are where nothing is retrieved: the first stands in
        for all but the last."""
        return torch.cat([torch.zeros_like(arranged[..., :-1]), arranged[..., -1:]], dim=-1)

    @property
    def placement(self) -> str:
        """Where joint frames stand in time for Wan's own rotary positions: "suffix", right after
        the chunk (Echo-Memory), or "prefix", right before it. Where angles come from camera rays
        (`WanConfig.camera` "rotary") there is no such place, and a world model takes "suffix" alone
        so that no two rows differ by name only, unless a state runs over them (`restarts`)."""
        return "suffix"

    @property
    def restarts(self) -> bool:
        """Whether a state runs over joint frames and chunk in every pass, in the order in which
        they are placed."""
        return False

    def mixer(self, channels: int) -> nn.Module | None:
        """What makes other frames of the joint ones: a module from (picked, chunk), two `Frames`
        of the same rows, to `Frames` of `mixed` frames, `shrink` times smaller a side. `picked`
        holds `retrieves` + 2 frames, of which the last is the one before the chunk. Where its
        attribute `chooses` is true, the chunk matters, and it is asked at every denoising step."""
        return None

    def summary(self, width: int) -> nn.Module | None:
        """What sums up the tokens of joint frames: a module from (R, K, L, width) to memory tokens
        (R, S, width). Blocks read them behind the text where its attribute `as_text` is true;
        `read` (tokens of the chunk, memory tokens) may change the former before the first block."""
        return None

    @property
    def mixed(self) -> int:
        """Frames that stand beside a chunk in the end, at most."""
        return self.retrieves + 2 if self.joint else 0

    def mixed_after(self, written: int) -> int:
        """As many as stand beside a chunk that follows `written` frames."""
        return self.mixed

    @property
    def timestep(self) -> str:
        """Of joint frames: "clean" (0), or "chunk", the chunk's own."""
        return "clean"

    @property
    def posed(self) -> bool:
        """Whether the network is told where joint frames stand."""
        return True

    def weigh(self, context: Tensor, chunk: Tensor) -> Tensor | None:
        """By what tokens (R, K, L, D) of joint frames are scaled, (R or 1, K); chunk (R, n, L, D):
        the tokens of the noise. None: nothing is."""
        return None

    @property
    def shrink(self) -> int:
        """How many times smaller than a frame these are, a side."""
        return 1

    def state(
        self, layer: int, width: int, heads: int, grid: tuple[int, int]
    ) -> RecurrentState | None:
        """What block `layer` carries (None: nothing); -1 stands before the first block.

        width: channels of a token; heads: of the attention; grid: rows and columns of a frame.
        """
        return None

    def states(
        self, layer: int, width: int, heads: int, grid: tuple[int, int]
    ) -> Mapping[str, RecurrentState]:
        """All that block `layer` carries, by name; a memory of one state calls it ""."""
        state = self.state(layer, width, heads, grid)
        return {} if state is None else {"": state}

    @property
    def wants(self) -> frozenset[str]:
        """What it has to be given of each frame besides latents and pose: names of `EXTRAS`."""
        return frozenset(() if self.views is None else ("depth", "intrinsics"))

    def ports(self, channels: int) -> Ports:
        """Through which ports of the video transformer its stores' evidence enters; channels: of a
        latent frame."""
        return Ports()

    def stores(self, setting: Setting) -> list[Store]:
        """What a stream keeps besides keys and values, states and retrieved frames."""
        return []


def _checked_rule(rule: Callable[[Any], Rule]) -> Callable[[Any], Rule]:
    """The method `rule` of a memory. LociError where it returns something else."""
    @wraps(rule)
    def checked(memory: Any) -> Rule:
        found = rule(memory)
        if not isinstance(found, Rule):
            there = "None" if found is None else f"a {type(found).__name__}"
            raise LociError(
                f"{type(memory).__name__}.rule() returned {there}; return a Rule, made of rules "
                "like first(1) and recent(4) with &, | and ~"
            )
        return found

    return checked


@cache
def _retention(memory: Memory) -> Retention:
    kinds = [Kind.CLEAN] + [Kind.GIST] * bool(memory.gists) + [Kind.EXECUTED] * memory.executed
    with torch.device("cpu"):  # a model may be in the making on the meta device
        return Retention(memory.rule(), kinds)


def check_drop(memory: Memory) -> None:
    """LociError for a share of dropped samples that is none."""
    if not 0 <= memory.drop < 1:
        raise LociError(
            f"{memory.type_name} memory: drop is {memory.drop}; give the share of samples, "
            "0 <= drop < 1"
        )
