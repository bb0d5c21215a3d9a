"""A policy in closed loop: observe, act, observe.

What the cameras saw is encoded and committed to a stream by one clean pass of the video
transformer; an act is Euler over action tokens alone, which read the cached keys, values and
states and leave no trace. No video is generated (MemoryWAM, arXiv 2606.20562, Inference). Where the
memory keeps action history, the chunk that was carried out goes once through the expert, and then
what was seen after it through the video transformer. `WorldActionModel.forward` executes the same
model under the same rule over a whole episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from loci.attention.cross import CrossKV
from loci.errors import LociError
from loci.errors.arguments import Holds, as_tensor, check_tensor, checked_arguments
from loci.memory.stores import Evidence, Tree, below
from loci.rules.rule import Coords, Kind
from loci.streaming import files
from loci.streaming.stream import Stream, modulation

if TYPE_CHECKING:
    from loci.models.world_action import WorldActionModel

Array = Tensor | np.ndarray


@dataclass(frozen=True, eq=False)
class Reading:
    """What the chunks of the robots `streams` may see of the past. It holds until one of them
    observes again, is reset or restored; `versions` tell.

    coords: the tokens of a chunk, for a robot that has seen nothing yet; rotary: angles of their
    actions; context: the text that they read, their state included; modulations: what the expert
    makes of the times that the chunk is known to be denoised at.
    """

    streams: list[int]
    versions: list[object]
    coords: Coords
    evidence: Evidence
    rotary: Tensor
    context: CrossKV
    modulations: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict)


@checked_arguments
class Policy:
    """Memory of `batch` robots of one model. Their episodes may have different lengths.

    capacity, gradients: as for `Session`.
    """

    def __init__(
        self, model: WorldActionModel, batch: int = 1, capacity: int | None = None,
        gradients: bool = False,
    ):
        self.model, self.batch = model, batch
        self.stream = Stream(
            model.world, batch, 1 + model.config.world.chunk if capacity is None else capacity,
            gradients, model.history, model.config.expert.horizon,
        )
        self._coords = {
            kind: model.expert.coords(torch.tensor([-1]), kind=kind)
            for kind in (Kind.ACTION, Kind.EXECUTED)
        }
        self.text: CrossKV | None = None
        self.proprio = torch.zeros(batch, model.config.expert.proprio, device=self.stream.device)
        # What an encoder carries through time is each robot's own; latents that were encoded
        # elsewhere leave none.
        self._encoder: list[Any] = [None] * batch
        embodiment = model.config.embodiment
        if model.config.text is not None and embodiment and embodiment.instruction is not None:
            self.init(embodiment.instruction)

    @property
    def lengths(self) -> list[int]:
        """Frames observed by each robot."""
        return list(self.stream.written)

    def init(
        self, text: Tensor | str | Sequence[str] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Policy:
        """Start all robots over, and `tell` them instructions.

        A model that was trained for one task starts with its instruction.
        """
        self.tell(text, lengths)
        self.reset()
        return self

    def tell(
        self, text: Tensor | str | Sequence[str] | None, lengths: Sequence[int] | None = None,
        streams: Sequence[int] | None = None,
    ) -> Policy:
        """From here on some robots (default: all) read other instructions, which are encoded here,
        once; what they saw stays as it is.

        text: one for all, a list of one a robot, or embeddings (B, S, text_dim) of which `lengths`
        are each text's own. Raises LociError, with nothing changed, for another number of them, for
        texts where the model reads none, and where some robots would read none beside others.
        """
        rows = self.batch if streams is None else len(streams)
        if text is not None and not isinstance(text, Tensor):
            texts = [text] * rows if isinstance(text, str) else list(text)
            text, lengths = self.model.embed(texts)
        if text is not None and len(text) != rows:
            raise LociError(f"{len(text)} instructions for {rows} robots; give one each")
        names = self.stream.names(streams, rows)
        if text is not None:
            text = text.to(self.stream.device, self.stream.dtype)
        with self.stream.graph():
            texts = self.model.read_text(text, lengths)
        video = CrossKV.replaced(self.stream.text, names, self.batch, texts.video)
        self.text = CrossKV.replaced(self.text, names, self.batch, texts.actions)
        self.stream.text = video
        return self

    def reset(self, streams: Sequence[int] | None = None) -> None:
        """Forget the episodes of some robots (default: all). Instructions stay: see `init`."""
        names = list(range(self.batch)) if streams is None else list(streams)
        self.stream.reset(names)
        for name in names:
            self._encoder[name] = None
            self.proprio[name] = 0

    def observe(
        self, images: Array | Mapping[str, Array], proprio: Array, executed: Array | None = None,
        streams: Sequence[int] | None = None,
    ) -> None:
        """Commit what the cameras saw.

        images: of each camera by its name, uint8 RGB (B, m, H, W, 3), which the model's
        `embodiment` puts together; or pictures that are put together already. One image at the
        start of an episode, then those of the codec's `images_per_frame` moments of each chunk that
        was carried out, one every `model.steps_per_image` actions. proprio (B, P): the robot's
        state now, in its own units. executed (B, n, A), in the robot's units: the actions that were
        carried out since the last observation, whatever `act` had returned. Wanted after the first
        observation of an episode where the memory keeps action history, checked and unused
        elsewhere. All may be numpy arrays, and those of one robot may lack the leading axes. Raises
        LociError, with nothing changed, for other shapes and for numbers that are not finite.
        """
        rows = self.batch if streams is None else len(streams)
        images = self._picture(images)
        images = images[None] if images.dim() == 3 and rows == 1 else images
        images = _batched(images, 5, rows)
        proprio, executed = self._vectors(proprio, executed, rows)
        names = self.stream.names(streams, len(images))
        proprio = self._check_proprio(proprio, len(names))
        executed = self._check_executed(executed, names)
        codec = self.model.world.codec
        camera = self.model.config.world.camera
        if images.dim() != 5 or images.shape[2:] != (camera.height, camera.width, 3):
            raise LociError(
                f"images of shape {tuple(images.shape)}; this model wants (B, n, {camera.height}, "
                f"{camera.width}, 3) uint8, its mosaic of all cameras"
            )
        for name in names:
            wanted = codec.images_per_frame if self.stream.written[name] else 1
            if images.shape[1] != wanted:
                raise LociError(
                    f"{images.shape[1]} images for robot {name}; give {wanted}: one at the start "
                    f"of an episode, then {codec.images_per_frame} for each chunk"
                )
            if wanted > 1 and self._encoder[name] is None:
                raise LociError(
                    f"robot {name} was shown latents that were encoded elsewhere, and this codec "
                    "goes on from what its encoder carries: observe latents again, or start over"
                )
        images = images.to(self.stream.device)
        if codec.images_per_frame == 1:
            latents, states = codec.encode(images), [()] * len(names)
        else:
            pushed = [
                codec.push(self._encoder[name], images[row : row + 1])
                for row, name in enumerate(names)
            ]
            latents, states = torch.cat([new for new, _ in pushed]), [s for _, s in pushed]
        self._commit(latents, proprio, executed, names)
        for name, state in zip(names, states, strict=True):
            self._encoder[name] = state

    def observe_latents(
        self, latents: Tensor, proprio: Array, executed: Array | None = None,
        streams: Sequence[int] | None = None,
    ) -> None:
        """As `observe`, for frames that were encoded before: latents (B, T, C, h, w), one by one
        where the memory keeps action history."""
        rows = self.batch if streams is None else len(streams)
        proprio, executed = self._vectors(proprio, executed, rows)
        names = self.stream.names(streams, len(latents))
        proprio = self._check_proprio(proprio, len(names))
        self._commit(latents, proprio, self._check_executed(executed, names), names)
        for name in names:
            self._encoder[name] = None

    def act(
        self, noise: Tensor | None = None, steps: int | None = None,
        streams: Sequence[int] | None = None, temperature: float | None = None,
    ) -> Tensor:
        """A chunk of actions (B, n, A) in the robot's units, from normal noise of that shape.

        noise: None draws it from torch's generator. steps, temperature: Euler steps, and the scale
        of the noise (default: the model's). Changes nothing: the same noise gives the same actions
        until the next `observe`. Raises LociError for a robot that has seen nothing, and for noise
        of another shape or that is not finite.
        """
        if noise is None:
            expert = self.model.config.expert
            rows = self.batch if streams is None else len(streams)
            noise = torch.randn(rows, expert.horizon, expert.actions)
        names = self.stream.names(streams, len(noise))
        with torch.no_grad():
            return self.solve(self.read(names), noise, steps, temperature)

    @torch.no_grad()
    def solve(
        self, reading: Reading, noise: Tensor, steps: int | None = None,
        temperature: float | None = None,
    ) -> Tensor:
        """A chunk of actions (B, n, A) in the robots' units from noise, for what was read; else as
        `act`. Raises LociError for a reading that is out of date, too."""
        config = self.model.config
        shape = len(reading.streams), config.expert.horizon, config.expert.actions
        check_tensor(noise, "noise", shape)
        self.stream.check_version(reading.streams, reading.versions)
        steps = config.steps if steps is None else steps
        scale = config.temperature if temperature is None else temperature
        if not 0 <= scale <= 1:
            raise LociError(f"temperature {scale} scales noise; use 0 to 1")
        reading.modulations.update(self.model.expert.modulations(config.flow.grid(steps)))
        predict = partial(self._denoise, reading)
        start = noise.to(self.stream.device) * scale
        return self.model.actions.inverse(
            config.flow.euler(predict, start, steps)
        ).to(noise.dtype)

    def read(self, streams: Sequence[int] | None = None) -> Reading:
        """What the next chunks of some robots (default: all) may see of the past, looked up once
        for all steps. Changes nothing. Raises LociError for a robot that has seen nothing."""
        names = self.stream.names(streams, self.batch if streams is None else len(streams))
        self.stream.check_begun(names, "nothing to act on: observe the scene before acting")
        return self._look(names, Kind.ACTION)

    def denoise(self, reading: Reading, actions: Tensor, time: float | Tensor) -> Tensor:
        """The network's output for noisy, normalised chunks (B, n, A) at a time in 0..1, one or
        (B,). Changes nothing. Raises LociError for other shapes and a reading out of date."""
        config, rows = self.model.config.expert, len(reading.streams)
        if actions.shape != (rows, config.horizon, config.actions):
            raise LociError(
                f"actions of shape {tuple(actions.shape)}; this model acts in chunks of "
                f"({rows}, {config.horizon}, {config.actions})"
            )
        self.stream.check_version(reading.streams, reading.versions)
        return self._denoise(reading, actions, time)

    def snapshot(self, streams: Sequence[int] | None = None) -> Tree:
        """The whole memory of some robots (default: all) as a plain tree of tensors, copied. It is
        that of a policy of as many robots."""
        names = self.stream.names(streams, self.batch if streams is None else len(streams))
        tree = {f"stream.{name}": value for name, value in self.stream.snapshot(names).items()}
        tree["proprio"] = self.proprio[names]
        for row, name in enumerate(names):
            for part, value in dict(self._encoder[name] or {}).items():
                tree[f"encoder.{row}.{part}"] = value.clone()
        return tree if self.text is None else tree | self.text.rows(names).tree("text")

    def restore(
        self, tree: Mapping[str, Tensor], streams: Sequence[int] | None = None
    ) -> Policy:
        """Some robots (default: all) go back to a snapshot of as many. LociError, and nothing
        changed, if it is not one of this model and of so many robots."""
        if "proprio" not in tree:
            raise LociError("this is no snapshot of a policy; give what `snapshot` returned")
        names = self.stream.names(streams, self.batch if streams is None else len(streams))
        if len(tree["proprio"]) != len(names):
            raise LociError(
                f"a memory of {len(tree['proprio'])} robots does not fit {len(names)}; make a "
                f"policy with batch={len(tree['proprio'])}"
            )
        own = CrossKV.from_tree(tree, "text", self.proprio)
        text = CrossKV.replaced(self.text, names, self.batch, own)
        self.stream.restore(below(tree, "stream"), names)
        self.proprio[names] = tree["proprio"].to(self.stream.device)
        for row, name in enumerate(names):
            self._encoder[name] = {
                part: value.to(self.stream.device, copy=True)
                for part, value in below(tree, f"encoder.{row}").items()
            } or None
        self.text = text
        return self

    def fork(self) -> Policy:
        """An independent policy with the same past."""
        fork = Policy(self.model, self.batch, None, self.stream.gradients)
        return fork.restore(self.snapshot())

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file, whole or not at all."""
        files.save(path, self.model, self.snapshot())

    @classmethod
    def load(cls, model: WorldActionModel, path: str | Path) -> Policy:
        """Continue from a saved memory. LociError for a damaged file or another model's."""
        tree = files.load(path, model)
        return cls(model, len(tree["proprio"])).restore(tree)

    def _commit(
        self, latents: Tensor, proprio: Tensor, executed: Tensor | None, names: list[int]
    ) -> None:
        if self.model.history and latents.dim() == 5 and latents.shape[1] != 1:
            raise LociError(
                f"{latents.shape[1]} frames at once, and actions were carried out between them; "
                "with action history, observe one frame after the other"
            )
        still = torch.eye(4, dtype=torch.float64).expand(*latents.shape[:2], 4, 4)
        if executed is not None:
            # They count once the frame is written: until then, nothing is changed.
            with self.stream.graph():
                expert = self.model.expert
                reading = self._look(names, Kind.EXECUTED)
                clean = torch.zeros(1, 1, device=self.stream.device)
                self._forward(reading, executed, expert.modulate(clean)[1], kv_only=True)
        self.stream.write(latents, still, names)
        self.proprio[names] = proprio

    def _look(self, names: list[int], kind: Kind) -> Reading:
        """For passes of the expert over the chunks after the last frames: noisy actions leave no
        trace, executed ones stay."""
        model, stream = self.model, self.stream
        coords = self._coords[kind]
        text = None if self.text is None else self.text.rows(names)
        with stream.graph():
            state = self.proprio[names][:, None].to(stream.dtype)
            context = model.expert.context(state, text)
            if kind == Kind.EXECUTED:
                evidence = stream.write_actions(names, coords, model.read_state)
            else:
                evidence = stream.query(names, coords, read=model.read_state)
        rotary = model.expert.rotary(stream.shifted(coords, names))
        return Reading(names, stream.versions(names), coords, evidence, rotary, context)

    def _denoise(self, reading: Reading, actions: Tensor, time: float | Tensor) -> Tensor:
        """`denoise`, for arguments that are known to be right."""
        with self.stream.graph():
            _, six = modulation(self.model.expert, reading.modulations, time, len(actions))
            tokens = self._forward(reading, actions, six)
            return self.model.expert.head(tokens)[:, 0].to(actions.dtype)

    def _forward(
        self, reading: Reading, actions: Tensor, six: Tensor, kv_only: bool = False
    ) -> Tensor:
        """The expert over normalised chunks (B, n, A): tokens (B, 1, n, D); six (B or 1, 1, 6, D):
        of their times."""
        return self.model.denoise(
            actions.to(self.stream.dtype)[:, None], reading.rotary, six, reading.context,
            reading.evidence, kv_only,
        )

    def _picture(self, images: Array | Mapping[str, Array]) -> Tensor:
        """What the model sees of the cameras' images."""
        if not isinstance(images, Mapping):
            return as_tensor(images, "images")
        embodiment = self.model.config.embodiment
        if embodiment is None:
            raise LociError(
                "this model does not know its robot's cameras; give one picture of all of them, "
                "or set model.embodiment"
            )
        views = {name: as_tensor(view, name).cpu().numpy() for name, view in images.items()}
        return torch.from_numpy(embodiment.picture(views, self.model.config.world.camera))

    def _vectors(
        self, proprio: Array, executed: Array | None, rows: int
    ) -> tuple[Tensor, Tensor | None]:
        """State (B, P) and executed actions (B, n, A) as tensors."""
        if executed is not None:
            executed = _batched(as_tensor(executed, "executed"), 3, rows)
        return _batched(as_tensor(proprio, "proprio"), 2, rows), executed

    def _check_proprio(self, proprio: Tensor, rows: int) -> Tensor:
        """The state of the robots, normalised."""
        shape = (rows, self.model.config.expert.proprio)
        check_tensor(
            proprio, "proprio", shape, Holds.NUMBERS, note="the robot's state, a row a robot"
        )
        return self.model.proprio(proprio.to(self.stream.device, torch.float32))

    def _check_executed(self, executed: Tensor | None, names: list[int]) -> Tensor | None:
        """The actions that were carried out, normalised; None where they are not kept."""
        config, history = self.model.config.expert, self.model.history
        begun = [name for name in names if self.stream.written[name]]
        if executed is None:
            if history and begun:
                raise LociError(
                    f"this memory keeps action history: give the actions that robots {begun} "
                    f"carried out since their last observation, (B, {config.horizon}, "
                    f"{config.actions})"
                )
            return None
        if len(begun) < len(names):
            raise LociError(
                f"robots {sorted({*names} - {*begun})} begin an episode and have carried out "
                "nothing yet; observe them in a call of their own, without executed actions"
            )
        shape = (len(names), config.horizon, config.actions)
        check_tensor(
            executed, "executed", shape, Holds.NUMBERS, meta=True,
            note="the whole chunk, a row a robot",
        )
        if not history:
            return None
        return self.model.actions(executed.to(self.stream.device, torch.float32))


def _batched(value: Tensor, dims: int, rows: int) -> Tensor:
    """`value` with an axis of robots in front; that of one robot may lack it."""
    return value[None] if value.dim() == dims - 1 and rows == 1 else value
