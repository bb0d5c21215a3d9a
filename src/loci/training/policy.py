"""Training of the world-action model: whole demonstrations, packed.

Every chunk of actions of an episode is predicted at once, each from what the memory's rule lets it
see, and frames ahead beside them. The objective is MemoryWAM's (arXiv 2606.20562, Training),

    L = video * L_video + actions * L_actions,

flow matching on both with their own shifts and weights, padded actions left out; clean frames are
noised, each to a level of its own that the model is told. Rows of a study share everything here and
differ in `model.world.memory` alone. Source of what is not in the paper: ours.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from loci.config import added_field
from loci.data.demonstrations import DemonstrationConfig
from loci.errors import LociError
from loci.memory import Compose, Memory
from loci.models.world_action import KIND, WorldActionConfig, WorldActionModel
from loci.seeds import seed_for
from loci.training.run import RunConfig
from loci.training.sampler import picked_alike
from loci.training.world import initialise, xavier


@dataclass(frozen=True, kw_only=True)
class PolicyRun(RunConfig, name="policy"):
    """A world-action model trained on demonstrations.

    batch: episodes a step. draws: noise draws of each chunk in a step, side by side. clean_noise:
    clean frames are noised up to this level. video, actions: weights of the two losses. ahead:
    frames of an episode whose prediction is supervised in a step, picked at random (None: all of
    them); without a video loss there are none. pause, longest: before every frame time goes on,
    with this chance, by up to so many frames that nobody saw, so that a fact can be held for longer
    than any demonstration lasts (randomised positions, arXiv 2305.16843). paused: the share of the
    steps in which that is so; in the others frames follow each other as they are played. lead: in
    half of the steps the robot stood still before it began: its first frame is seen up to so many
    times more, in front of the episode, which fills the memory and teaches nothing to do. linger:
    in nearly half of the steps the first frame at which the robot goes on waiting is seen up to so
    many times more, for every wait: what it waits for takes longer than in any demonstration.
    alike: the episodes of so many steps are dealt out by their lengths, so that those of a step are
    about equally long, and little is filled up. windows: where given, each step picks the memory's
    window among these. attention, recompute: see `WorldActionModel.forward`.
    """

    kind: ClassVar[str] = KIND
    model: WorldActionConfig
    data: DemonstrationConfig
    batch: int = 8
    draws: int = 2
    clean_noise: float = 0.0
    video: float = 1.0
    actions: float = 1.0
    ahead: int | None = None
    pause: float = 0.0
    longest: int = 24
    paused: float = added_field(1.0)
    lead: int = 0
    linger: int = added_field(0)
    alike: int = added_field(1)
    windows: tuple[int, ...] = ()
    attention: str = "windowed"
    recompute: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.clean_noise <= 1:
            raise LociError("clean_noise is a noise level; use 0 to 1")
        if self.batch < 1 or self.draws < 1 or (self.ahead is not None and self.ahead < 1):
            raise LociError("batch, draws and ahead count; use 1 or more")
        if self.video < 0 or self.actions <= 0:
            raise LociError("the losses' weights: actions more than 0, video 0 or more")
        if self.video and not self.model.world.dit.out_channels:
            raise LociError("the model predicts no frames (out_channels 0): set video to 0, or "
                            "out_channels to the codec's channels")
        if not 0 <= self.pause <= 1 or self.longest < 1:
            raise LociError("pause is a chance, 0 to 1, and longest counts frames, 1 or more")
        if not 0 <= self.paused <= 1:
            raise LociError(f"paused {self.paused} is a share of the steps; use 0 to 1")
        if self.lead < 0 or self.linger < 0:
            raise LociError(
                f"lead {self.lead} and linger {self.linger} count frames; use 0 or more"
            )
        if self.alike < 1:
            raise LociError(f"alike {self.alike} counts steps; use 1 or more")
        if self.lead and self.model.world.memory.executed:
            raise LociError("before an episode nothing is carried out; set lead to 0, or keep no "
                            "action history")
        for window in self.windows:
            with_window(self.model.world.memory, window)

    def task(self) -> PolicyTask:
        return PolicyTask(self)

    def notes(self) -> dict[str, object]:
        return {"cameras": list(self.data.cameras)}


class PolicyTask:
    """Demonstrations in, the flow-matching losses of all their chunks and frames out."""

    def __init__(self, config: PolicyRun):
        self.config = config
        self.module: nn.Module
        self.model = self.module = config.model.build()
        self.begin(self.model)
        self.model.world.codec.requires_grad_(False)
        expert = config.model.expert
        codec, camera = self.model.world.codec, config.model.world.camera
        self.data = config.data.load(codec, expert.horizon, camera)
        self.model.actions.fit(self.data.all_actions())
        self.model.proprio.fit(self.data.all_proprio())
        # Batches are made on the host, wherever the model goes.
        self.scale = self.model.actions.scale.clone()
        self.lengths = self.data.lengths()

    def begin(self, model: WorldActionModel) -> None:
        """Fill in the weights that training begins from. LociError for a codec that needs some."""
        if list(model.world.codec.parameters()):
            raise LociError(
                "the codec has weights, and this run says none: begin from a checkpoint "
                "(loci.training.init_from), or take the pixel codec"
            )
        self.draw(model)

    def draw(self, model: WorldActionModel) -> None:
        """Weights at random."""
        initialise(model.world)
        xavier(model.expert)
        nn.init.zeros_(model.expert.head.weight)

    def batch(self, step: int) -> dict[str, Tensor]:
        """Demonstrations of a step, cut to the longest of them, and all that is drawn for them.

        latents, clean_noise (B, T, C, h, w); clean_time (B, T); proprio (B, T, P); actions, valid
        (B, E, n, A) and (B, E, n) of the last E frames, those of the episode; noise
        (B, E * draws, n, A) and time (B, E * draws), draw by draw; with a video loss noisy
        (B, V, C, h, w), noisy_time and ahead (B, V), the frames (the same for all), and seen
        (B, V), where they count as their actions do; pauses (B, T) and window (B,) where there are
        any.
        """
        config, model = self.config, self.config.model
        picks = picked_alike(config.train.seed, step, config.batch, self.lengths, config.alike)
        part = self.data.rows(picks)
        draw = torch.Generator().manual_seed(seed_for(config.train.seed, step))
        if config.linger:
            most = max(0, int(torch.randint(-config.linger, config.linger + 1, (), generator=draw)))
            more = torch.randint(0, most + 1, part.valid.shape[:2], generator=draw)
            part = part.lingering(more * part.waits(self.scale))
        lead = 0
        if config.lead:
            lead = max(0, int(torch.randint(-config.lead, config.lead + 1, (), generator=draw)))
        latents, proprio = _again(part.latents.float(), lead), _again(part.proprio, lead)
        rows, frames, acted = len(picks), latents.shape[1], part.actions.shape[1]
        count = acted * config.draws
        batch = {
            "latents": latents, "proprio": proprio, "actions": part.actions,
            "valid": part.valid,
            "time": model.flow.sample_times((rows, count), draw),
            "noise": torch.randn(rows, count, *part.actions.shape[2:], generator=draw),
            "clean_time": config.clean_noise * torch.rand(rows, frames, generator=draw),
            "clean_noise": torch.randn(latents.shape, generator=draw),
        }
        # At 1 nothing is drawn: batches of earlier recipes stay what they were.
        if config.pause and (config.paused == 1 or torch.rand((), generator=draw) < config.paused):
            happens = torch.rand(rows, frames, generator=draw) < config.pause
            length = torch.randint(1, config.longest + 1, (rows, frames), generator=draw)
            batch["pauses"] = length * happens
        if config.video and acted > 1:
            wanted = acted - 1 if config.ahead is None else min(config.ahead, acted - 1)
            ahead = 1 + torch.randperm(acted - 1, generator=draw)[:wanted].sort().values
            batch["ahead"] = (lead + ahead).expand(rows, -1)
            batch["seen"] = part.valid[:, :, 0][:, ahead]
            batch["noisy_time"] = model.world.flow.sample_times((rows, wanted), draw)
            batch["noisy"] = torch.randn(rows, wanted, *latents.shape[2:], generator=draw)
        if config.windows:
            which = int(torch.randint(len(config.windows), (), generator=draw))
            batch["window"] = torch.full((rows,), config.windows[which])
        return batch

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Both losses, each a mean over the episodes of its mean over what is there."""
        config, model = self.config, self.model
        flow, video = config.model.flow, config.model.world.flow
        latents, frames = batch["latents"], batch["latents"].shape[1]
        first, clean_time = frames - batch["actions"].shape[1], batch["clean_time"]
        clean = video.path(latents, batch["clean_noise"], clean_time[:, :, None, None, None])
        target = model.actions(batch["actions"]).repeat(1, config.draws, 1, 1)
        time, noise = batch["time"], batch["noise"]
        extra, ahead = {}, []
        if "noisy" in batch:
            ahead = batch["ahead"][0].tolist()
            truth, levels = latents[:, ahead], batch["noisy_time"]
            mixed = video.path(truth, batch["noisy"], levels[:, :, None, None, None])
            extra = {"noisy": mixed, "time": levels, "ahead": ahead}
        output, guess = model(
            clean, flow.path(target, noise, time[:, :, None, None]), time,
            model.proprio(batch["proprio"]),
            after=list(range(first, frames)) * config.draws, clean_time=clean_time,
            executed=model.actions(batch["actions"]), pauses=batch.get("pauses"),
            memory=self._memory(batch), attention=config.attention, recompute=config.recompute,
            **extra,
        )
        # One number for each action, so that padding can be left out.
        error = flow.loss(
            output.flatten(1, 2), target.flatten(1, 2), noise.flatten(1, 2),
            time.repeat_interleave(target.shape[2], dim=1),
        )
        acted = _mean(error, batch["valid"].repeat(1, config.draws, 1).flatten(1))
        total, metrics = config.actions * acted, {"actions": float(acted.detach())}
        if guess is not None:
            shown = _mean(video.loss(guess, truth, batch["noisy"], levels), batch["seen"])
            total, metrics["video"] = total + config.video * shown, float(shown.detach())
        return total, metrics

    def _memory(self, batch: dict[str, Tensor]) -> Memory | None:
        """The memory of this step, where its window varies."""
        if "window" not in batch:
            return None
        return with_window(self.config.model.world.memory, int(batch["window"][0]))


def with_window(memory: Memory, window: int) -> Memory:
    """The same memory with another window. LociError for one that has none."""
    changes: dict[str, Any] = {"window": window}
    if isinstance(memory, Compose):
        varied = [with_window(m, window) if hasattr(m, "window") else m for m in memory.members]
        if varied == list(memory.members) and all(not hasattr(m, "window") for m in varied):
            raise LociError("none of the composed memories has a window; leave `windows` out")
        changes = {"members": tuple(varied)}
    elif not hasattr(memory, "window"):
        raise LociError(f"{type(memory).__name__} has no window to vary; leave `windows` out")
    return dataclasses.replace(memory, **changes)


def _again(frames: Tensor, lead: int) -> Tensor:
    """The first of the frames (B, T, ...) so many times more."""
    return torch.cat([frames[:, :1].repeat_interleave(lead, dim=1), frames], dim=1)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over rows of each row's mean over what is valid, (B, S) both."""
    weight = valid.to(values.dtype)
    return ((values * weight).sum(1) / weight.sum(1).clamp(min=1)).mean()
