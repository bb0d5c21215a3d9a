"""The world-action model: a world model, and an action expert that shares its attention.

MemoryWAM (arXiv 2606.20562). The video transformer takes in clean frames and leaves keys, values,
gists and carried states; noisy actions see what the memory's rule lets them see of it, and each
other. Actions that were carried out are kept beside the frames where the memory wants them. Frames
that are predicted beside the actions are a training signal alone. The model owns no state:
a stream's memory is held by a `Policy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from loci.attention.cross import Text
from loci.attention.rotary import RotaryCosSin
from loci.config import Config, added_field
from loci.errors import LociError
from loci.flow import Flow
from loci.io.checkpoint import load_checkpoint, load_into, save_checkpoint
from loci.memory.base import Memory
from loci.memory.recurrent import Carry, Guest, State
from loci.models.action import ActionConfig, ActionExpert
from loci.models.normalisation import Normalisation, Normaliser
from loci.models.world import WorldConfig

if TYPE_CHECKING:
    from loci.streaming.policy import Policy

KIND = "world-action-model"


@dataclass(frozen=True)
class Texts:
    """An instruction as the two transformers read it; None: without its cross-attention."""

    video: Text | None
    actions: Text | None


NO_TEXT = Texts(None, None)


@dataclass(frozen=True, kw_only=True)
class WorldActionConfig(Config):
    """Everything that a world-action model is. Rows of a study differ in `world.memory` alone.

    flow: of the actions; the frames have `world.flow`. steps: Euler steps for a chunk of actions.
    temperature: the noise that they begin from is multiplied by it. At 1 a policy that is unsure
    does each of two things as often as it holds it right; towards 0, the likelier one. (Ours; flow
    matching knows 1.) actions, proprio: how actions and the robot's state are normalised.
    """

    world: WorldConfig
    expert: ActionConfig
    flow: Flow = field(default_factory=lambda: Flow(shift=1.0))
    steps: int = 10
    temperature: float = added_field(1.0)
    actions: Normalisation = field(default_factory=Normalisation)
    proprio: Normalisation = field(default_factory=Normalisation)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise LociError(f"{self.steps} denoising steps; use 1 or more")
        if not 0 <= self.temperature <= 1:
            raise LociError(f"temperature {self.temperature} scales noise; use 0 to 1")
        if self.world.chunk != 1:
            raise LociError("between two chunks of actions lies one frame: set world.chunk to 1")
        if self.world.dit.camera != "none":
            raise LociError("a robot's cameras have no poses here: set dit.camera to none")

    def build(self) -> WorldActionModel:
        return WorldActionModel(self)


class WorldActionModel(nn.Module):
    """World model, action expert, normalisation, and what reads carried states for the expert.

    Raises LociError for a memory that needs camera poses, or whose carried states can only be read
    by whole frames.
    """

    def __init__(self, config: WorldActionConfig):
        super().__init__()
        self.config = config
        _check_memory(config.world.memory)
        self.world = config.world.build()
        dit = config.world.dit
        self.expert = ActionExpert(config.expert, dit)
        self.actions = Normaliser(config.actions, config.expert.actions)
        self.proprio = Normaliser(config.proprio, config.expert.proprio)
        self.guests = nn.ModuleDict({
            f"block{layer}": Guest(config.expert.dim, dit.dim) for layer in self.world.carries
        })
        for layer, carry in self.world.carries.items():
            if not carry.tokenwise:
                raise LociError(
                    f"the state that block {layer} carries is read by whole frames, and actions "
                    "are none; choose a memory of tokens, the delta rule or test-time training"
                )

    @property
    def history(self) -> int:
        """Executed actions that a stream keeps between two frames; 0: none."""
        config = self.config
        return config.expert.horizon if config.world.memory.executed else 0

    def read_text(self, text: Tensor | None, lengths: Sequence[int] | None = None) -> Texts:
        """Text embeddings (B, S, text_dim) as both transformers read them, once an episode."""
        if text is None:
            return NO_TEXT
        lengths = [text.shape[1]] * len(text) if lengths is None else lengths
        read = self.world.config.dit.text_dim > 0
        return Texts(
            self.world.dit.encode_text(text, lengths) if read else None,
            self.expert.encode_text(text, lengths),
        )

    def read_carry(
        self, layer: int, carry: Carry, x: Tensor, state: State, turn: RotaryCosSin
    ) -> Tensor:
        """What action tokens x (R, 1, n, D) read of the states of their rows at a block."""
        return self.guests[f"block{layer}"].read(carry, x, state, turn)

    def policy(
        self, batch: int = 1, capacity: int | None = None, gradients: bool = False
    ) -> Policy:
        """A fresh memory for `batch` robots; see `Policy` for the rest."""
        from loci.streaming.policy import Policy

        return Policy(self, batch, capacity, gradients)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32, **notes: object) -> None:
        save_checkpoint(path, KIND, self.config, self.state_dict(), dtype=dtype, **notes)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The model in a checkpoint, a file or the name of one that ships, in fp32, in evaluation
        mode."""
        config, tensors, _ = load_checkpoint(path, KIND)
        model = cls(WorldActionConfig.from_dict(config))
        load_into(model, tensors, path)
        return model.eval()


def _check_memory(memory: Memory) -> None:
    if memory.joint or memory.retrieves:
        raise LociError(
            f"memory row '{type(memory).__name__}' chooses frames by camera poses, which a robot's "
            "frames lack; choose one that keeps tokens or carries a state"
        )
