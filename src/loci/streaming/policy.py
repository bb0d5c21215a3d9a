"""A policy in closed loop: observe, act, observe.

What the cameras saw is encoded and committed to a `Session` by one clean pass of the video
transformer; an act is Euler over action tokens alone, which read the cached keys, values and
states and leave no trace. No video is generated (MemoryWAM, arXiv 2606.20562, Inference). Where the
memory keeps action history, the chunk that was carried out goes once through the expert, and then
what was seen after it through the video transformer. `packed_actions` executes the same model under
the same rule over a whole episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loci.attention.cross import Text
from loci.attention.dense import AttentionFn
from loci.errors import LociError
from loci.flow import times
from loci.memory.recurrent import StateHook
from loci.models.mot import Lane, run
from loci.rules.rule import Kind
from loci.streaming import attend as streaming
from loci.streaming import files as memory_file
from loci.streaming.kv_cache import ordinary
from loci.streaming.session import Session

if TYPE_CHECKING:
    from loci.models.world_action import WorldActionModel


@dataclass(frozen=True, eq=False)
class Reading:
    """What the chunks of the robots `streams` may see of the past. It holds until one of them
    observes again, is reset or restored; `stamps` tell.

    angles: rotary ones of their actions; context: the text that they read, their state included.
    """

    streams: list[int]
    stamps: list[object]
    views: list[streaming.View]
    attend: AttentionFn
    recall: StateHook
    angles: Tensor
    context: Text


class Policy:
    """Memory of `batch` robots of one model. Their episodes may have different lengths.

    capacity, gradients: as for `Session`.
    """

    def __init__(
        self, model: WorldActionModel, batch: int = 1, capacity: int | None = None,
        gradients: bool = False,
    ):
        self.model = model
        self.session = Session(model.world, batch, capacity, gradients, model.history)
        self.batch, self.gradients = batch, gradients
        self.text: Text | None = None
        self.proprio = torch.zeros(batch, model.config.expert.proprio, device=self.session.device)
        self._encoder: list[Any] = [None] * batch
        self._sixes: dict[float, Tensor] = {}

    @property
    def lengths(self) -> list[int]:
        """Frames observed by each robot."""
        return self.session.lengths

    def init(self, text: Tensor | None = None, lengths: Sequence[int] | None = None) -> Policy:
        """Start all robots over, with instructions as embeddings (B, S, text_dim), read once."""
        if text is not None and len(text) != self.batch:
            raise LociError(f"{len(text)} instructions for {self.batch} robots; give one each")
        if text is not None:
            text = text.to(self.session.device, self.session.dtype)
        with self._graph():
            texts = self.model.read_text(text, lengths)
        self.reset()
        self.session.text, self.text = texts.video, texts.actions
        return self

    def reset(self, streams: Sequence[int] | None = None) -> None:
        """Forget the episodes of some robots (default: all). Instructions stay: see `init`."""
        names = list(range(self.batch)) if streams is None else list(streams)
        self.session.reset(names)
        self._sixes.clear()  # the model may have been trained on meanwhile
        for name in names:
            self._encoder[name] = None
            self.proprio[name] = 0

    def observe(
        self, images: Tensor, proprio: Tensor, executed: Tensor | None = None,
        streams: Sequence[int] | None = None,
    ) -> None:
        """Commit what the cameras saw: images (B, m, H, W, 3) uint8, one mosaic each.

        One image at the start of an episode, then those of the codec's `images_per_frame` moments
        of each chunk that was carried out. proprio (B, P): the robot's state now, in its own units.
        executed (B, n, A), in the robot's units: the actions that were carried out since the last
        observation, whatever `act` had returned. Wanted after the first observation of an episode
        where the memory keeps action history, checked and unused elsewhere. Raises LociError, with
        nothing changed, for other shapes and for numbers that are not finite.
        """
        names = self._names(streams, len(images))
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
            wanted = codec.images_per_frame if self.session.cache.written[name] else 1
            if images.shape[1] != wanted:
                raise LociError(
                    f"{images.shape[1]} images for robot {name}; give {wanted}: one at the start "
                    f"of an episode, then {codec.images_per_frame} for each chunk"
                )
        images = images.to(self.session.device)
        if codec.images_per_frame == 1:
            latents, states = codec.encode(images), [()] * len(names)
        else:
            # What an encoder carries through time is each robot's own.
            pushed = [
                codec.push(self._encoder[name], images[row : row + 1])
                for row, name in enumerate(names)
            ]
            latents, states = torch.cat([new for new, _ in pushed]), [s for _, s in pushed]
        self._commit(latents, proprio, executed, names)
        for name, state in zip(names, states, strict=True):
            self._encoder[name] = state

    def observe_latents(
        self, latents: Tensor, proprio: Tensor, executed: Tensor | None = None,
        streams: Sequence[int] | None = None,
    ) -> None:
        """As `observe`, for frames that were encoded before: latents (B, T, C, h, w), one by one
        where the memory keeps action history."""
        names = self._names(streams, len(latents))
        proprio = self._check_proprio(proprio, len(names))
        self._commit(latents, proprio, self._check_executed(executed, names), names)

    def act(
        self, noise: Tensor, steps: int | None = None, streams: Sequence[int] | None = None,
        temperature: float | None = None,
    ) -> Tensor:
        """A chunk of actions (B, n, A) in the robot's units, from normal noise of that shape.

        steps, temperature: Euler steps, and the scale of the noise (default: the model's). Changes
        nothing: the same noise gives the same actions until the next `observe`. Raises LociError
        for a robot that has seen nothing, and for noise of another shape or that is not finite.
        """
        names = self._names(streams, len(noise))
        if not bool(torch.isfinite(noise).all()):
            raise LociError("the noise holds NaN or infinity; draw it from a normal distribution")
        config = self.model.config
        steps = config.steps if steps is None else steps
        scale = config.temperature if temperature is None else temperature
        if not 0 <= scale <= 1:
            raise LociError(f"temperature {scale} scales noise; use 0 to 1")
        with torch.no_grad():
            predict = partial(self.denoise, self.read(names))
            start = noise.to(self.session.device) * scale
            return self.model.actions.inverse(
                config.flow.euler(predict, start, steps)
            ).to(noise.dtype)

    def read(self, streams: Sequence[int] | None = None) -> Reading:
        """What the next chunks of some robots (default: all) may see of the past, looked up once
        for all steps. Changes nothing. Raises LociError for a robot that has seen nothing."""
        names = self._names(streams, self.batch if streams is None else len(streams))
        if not all(self.session.cache.written[name] for name in names):
            raise LociError("nothing to act on: observe the scene before acting")
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
        self.session.check(reading.streams, reading.stamps)
        with self._graph():
            tokens = self._forward(reading, actions, time)
            return self.model.expert.head(tokens)[:, 0].to(actions.dtype)

    def snapshot(self) -> dict[str, Tensor]:
        """The whole memory as a plain tree of tensors, copied."""
        tree = {f"session.{name}": value for name, value in self.session.snapshot().items()}
        tree["proprio"] = self.proprio.clone()
        for name, state in enumerate(self._encoder):
            for part, value in dict(state or {}).items():
                tree[f"encoder.{name}.{part}"] = value.clone()
        return tree if self.text is None else tree | self.text.tree("text")

    def restore(self, tree: Mapping[str, Tensor]) -> Policy:
        """Go back to a snapshot. LociError, and nothing changed, if it is not one of this model
        and batch."""
        if "proprio" not in tree:
            raise LociError("this is no snapshot of a policy; give what `snapshot` returned")
        self.session.restore(_below(tree, "session"))
        self.proprio = tree["proprio"].to(self.session.device, copy=True)
        self._encoder = [
            {part: value.to(self.session.device, copy=True)
             for part, value in _below(tree, f"encoder.{name}").items()}
            if written else None
            for name, written in enumerate(self.session.lengths)
        ]
        self.text = Text.from_tree(tree, "text", self.session.device)
        return self

    def fork(self) -> Policy:
        """An independent policy with the same past."""
        return Policy(self.model, self.batch, None, self.gradients).restore(self.snapshot())

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file, whole or not at all."""
        memory_file.save(path, self.model, self.snapshot())

    @classmethod
    def load(cls, model: WorldActionModel, path: str | Path) -> Policy:
        """Continue from a saved memory. LociError for a damaged file or another model's."""
        tree = memory_file.load(path, model)
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
            with self._graph():
                self._forward(self._look(names, Kind.EXECUTED), executed, 0.0, silent=True)
        self.session.write(latents, still, names)
        self.proprio[names] = proprio

    def _look(self, names: list[int], kind: Kind) -> Reading:
        """For passes of the expert over the chunks after the last frames: noisy actions leave no
        trace, executed ones stay."""
        model, session = self.model, self.session
        cache, written = session.cache, [session.cache.written[name] for name in names]
        cache.reserve(cache.layout.room(max(written)) + model.config.expert.horizon)
        coords = model.expert.coords(torch.tensor([-1]), kind=kind)
        groups = streaming.group(cache, names)
        places, views = [coords.later(g.written) for g in groups], []
        if kind == Kind.EXECUTED:
            jobs = [
                streaming.keep(cache, session.rule, g, place)
                for g, place in zip(groups, places, strict=True)
            ]
        else:
            views = [
                streaming.look(cache, session.rule, g, place)
                for g, place in zip(groups, places, strict=True)
            ]
            jobs = [streaming.denoise(cache, view) for view in views]
        text = None if self.text is None else self.text.rows(names)
        with self._graph():
            state = self.proprio[names][:, None].to(session.dtype)
            context = model.expert.context(state, text)
        angles = model.expert.angles(coords.later(torch.tensor(written)[:, None]))
        return Reading(
            names, session.stamps(names), views, streaming.attend(groups, jobs),
            session.carried.reading(names, model.read_carry), angles.to(session.device), context,
        )

    def _forward(
        self, reading: Reading, actions: Tensor, time: float | Tensor, silent: bool = False
    ) -> Tensor:
        """The expert over normalised chunks (B, n, A): tokens (B, 1, n, D)."""
        levels = times(time, len(actions), self.session.device)
        segment = self.model.expert.segment(
            actions.to(self.session.dtype)[:, None], levels[:, None], reading.angles,
            self._six(time), silent=silent,
        )
        lane = Lane(self.model.expert, segment, reading.context)
        return run([lane], reading.attend, reading.recall)[0]

    def _six(self, time: float | Tensor) -> Tensor | None:
        """What the expert makes of a time, worked out once for the fixed times of Euler's grid."""
        if isinstance(time, Tensor) or torch.is_grad_enabled():
            return None
        if time not in self._sixes:
            # `ordinary` alone would turn gradients on, and keep the graph of each time.
            with ordinary(), torch.no_grad():
                levels = times(time, 1, self.session.device)[:, None]
                self._sixes[time] = self.model.expert.modulate(levels)[1]
        return self._sixes[time]

    def _names(self, streams: Sequence[int] | None, rows: int) -> list[int]:
        names = [int(name) for name in (range(self.batch) if streams is None else streams)]
        if len(names) != rows or len(set(names)) != rows or not set(names) <= {*range(self.batch)}:
            raise LociError(
                f"{rows} rows for robots {names} of {self.batch}; give each robot exactly one row"
            )
        return names

    def _check_proprio(self, proprio: Tensor, rows: int) -> Tensor:
        """The state of the robots, normalised."""
        width = self.model.config.expert.proprio
        if proprio.shape != (rows, width):
            raise LociError(
                f"proprioception of shape {tuple(proprio.shape)}; this model wants ({rows}, "
                f"{width}): the robot's state, a row a robot"
            )
        if not bool(torch.isfinite(proprio).all()):
            raise LociError("proprioception holds NaN or infinity; check the robot's joints")
        return self.model.proprio(proprio.to(self.session.device, torch.float32))

    def _check_executed(self, executed: Tensor | None, names: list[int]) -> Tensor | None:
        """The actions that were carried out, normalised; None where they are not kept."""
        config, history = self.model.config.expert, self.model.history
        begun = [name for name in names if self.session.cache.written[name]]
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
        if executed.shape != shape:
            raise LociError(
                f"executed actions of shape {tuple(executed.shape)}; this model wants {shape}: "
                "the whole chunk, a row a robot"
            )
        if not bool(torch.isfinite(executed).all()):
            raise LociError("executed actions hold NaN or infinity; check what was carried out")
        if not history:
            return None
        return self.model.actions(executed.to(self.session.device, torch.float32))

    def _graph(self) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(self.gradients and torch.is_grad_enabled())


def _below(tree: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a tree whose names begin with `prefix`, without it."""
    cut = len(prefix) + 1
    return {name[cut:]: value for name, value in tree.items() if name.startswith(f"{prefix}.")}
