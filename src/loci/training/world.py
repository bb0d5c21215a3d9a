"""Training of the world model: every chunk of an episode from the true frames before it.

One packed pass under the row's rule, flow matching on the noisy chunks. Rows of a study share
everything here and differ in `world.memory` alone: episodes, order, chunks, timesteps and noise
of a step are functions of the seed and the step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from loci.attention.rotary import ALIGNED
from loci.data.episodes import FORMAT, render_training_set
from loci.errors import LociError
from loci.geometry import Camera
from loci.io.bundled import bundled
from loci.io.checkpoint import digest, load_checkpoint, load_into
from loci.io.files import atomic_write, cache_folder
from loci.io.progress import tracked
from loci.models.codecs.base import Codec, CodecConfig
from loci.models.wan import WanConfig
from loci.models.world import KIND, WorldConfig, WorldModel
from loci.seeds import seed_for
from loci.training.run import RunConfig
from loci.training.sampler import picked

# How sharply heads start out looking along their own ray; see `initialise`.
SHARPNESS = 1.3


@dataclass(frozen=True, kw_only=True)
class WorldRun(RunConfig, name="world"):
    """A world model trained on wandering episodes of the train rooms.

    episodes: train rooms 0 to episodes - 1, one walk of `length` frames through each. batch:
    episodes a step. clean_noise: clean frames are noised up to this level, of which the model is
    told (MemoryWAM's clean-latent augmentation), so that it bears its own small mistakes.
    codec: digest of the codec that the latents come from; see `shipped_codec`. attention: see
    `packed_pass`. camera: of the episodes; it must be the model's.
    """

    kind: ClassVar[str] = KIND
    world: WorldConfig
    codec: str
    episodes: int = 3000
    length: int = 65
    batch: int = 4
    clean_noise: float = 0.0
    attention: str = "windowed"
    camera: Camera = field(default_factory=Camera)

    def __post_init__(self) -> None:
        if self.length <= self.world.chunk or (self.length - 1) % self.world.chunk:
            raise LociError(
                f"episodes of {self.length} frames do not split into a first frame and chunks of "
                f"{self.world.chunk}; choose 1 + n x {self.world.chunk}"
            )
        if not 0 <= self.clean_noise < 1:
            raise LociError("clean_noise is a noise level; use 0 up to, not including, 1")
        if self.episodes < 1 or self.batch < 1:
            raise LociError(
                f"{self.episodes} episodes in batches of {self.batch}; use 1 or more of both"
            )
        if self.camera != self.world.camera:
            raise LociError(
                "the episodes' camera is not the model's; give `camera` and `world.camera` alike"
            )

    def task(self) -> WorldTask:
        return WorldTask(self)


class WorldTask:
    """Latent episodes in, the flow-matching loss of all their chunks out."""

    def __init__(self, config: WorldRun):
        self.config = config
        self.module: nn.Module
        self.model = self.module = config.world.build()
        codec = shipped_codec(self.model.codec, config.codec)
        codec.requires_grad_(False)
        initialise(self.model)
        self.latents, self.poses = latent_episodes(config, codec)
        chunk = config.world.chunk
        self.starts = list(range(1, config.length, chunk))

    def batch(self, step: int) -> dict[str, Tensor]:
        """Episodes of a step, a fresh permutation every epoch, and all that is drawn for them:

        latents and clean_noise (B, T, C, h, w), poses (B, T, 4, 4), noise (B, G, n, C, h, w),
        time (B, G) and clean_time (B, T) noise levels, dropped (B,) episodes without retrieval.
        """
        config, count = self.config, len(self.latents)
        picks = picked(config.train.seed, step, config.batch, count)
        draw = torch.Generator().manual_seed(seed_for(config.train.seed, step))
        latents = self.latents[picks].float()
        groups, span = len(self.starts), config.world.chunk
        return {
            "latents": latents,
            "poses": self.poses[picks],
            "time": config.world.flow.sample_times((len(picks), groups), draw),
            "noise": torch.randn(len(picks), groups, span, *latents.shape[2:], generator=draw),
            "clean_time": config.clean_noise * torch.rand(latents.shape[:2], generator=draw),
            "clean_noise": torch.randn(latents.shape, generator=draw),
            "dropped": torch.rand(len(picks), generator=draw) < config.world.memory.drop,
        }

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The mean weighted flow-matching loss over all chunks."""
        config, flow = self.config, self.config.world.flow
        latents, time, noise = batch["latents"], batch["time"], batch["noise"]
        target = torch.stack(
            [latents[:, s : s + config.world.chunk] for s in self.starts], dim=1
        )  # (B, G, n, C, h, w)
        noisy = flow.path(target, noise, time[:, :, None, None, None, None])
        clean_time = batch["clean_time"]
        clean = flow.path(latents, batch["clean_noise"], clean_time[:, :, None, None, None])
        output = self.model(
            clean, noisy, time, batch["poses"], self.starts,
            clean_time=clean_time, dropped=batch["dropped"], attention=config.attention,
        )
        loss = flow.loss(output, target, noise, time)  # (B, G)
        # How well it does when there is much noise left says how much of the past it uses.
        late = loss.detach()[:, len(self.starts) // 2 :].mean()
        return self.total(loss, batch), {"late": float(late)}

    def total(self, losses: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """One number from the losses of all chunks, (B, G)."""
        return losses.mean()


def initialise(model: WorldModel) -> None:
    """Xavier for matrices, zeros for biases and for the head: the first prediction is zero.

    Camera injection keeps its own zeros (Echo-Memory). With rotary cameras every head starts out
    looking where its own ray points: a constant in the first channel of each pair of queries and
    keys makes the score a sum of cosines of the angle between two tokens, largest for those that
    look at the same place. Training then refines what would take it long to find (ours).
    """
    xavier(model.dit)
    model.dit.open_ports()
    if model.dit.head is not None:
        nn.init.zeros_(model.dit.head.head.weight)
    if model.config.dit.camera == "rotary":
        for block in model.dit.blocks:
            for layer in (block.self_attn.q, block.self_attn.k):
                with torch.no_grad():
                    layer.bias[0::2] = ALIGNED
            nn.init.constant_(block.self_attn.norm_q.weight, SHARPNESS)


def xavier(trunk: nn.Module) -> None:
    """Xavier for the matrices of its linear layers, zeros for their biases; see `initialise`."""
    for name, layer in trunk.named_modules():
        if isinstance(layer, nn.Linear) and ".camera." not in name:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def shipped_codec_config() -> tuple[CodecConfig, str]:
    """Configuration and digest of the shipped codec."""
    config, tensors, _ = load_checkpoint(bundled("codec"), "codec")
    return CodecConfig.from_dict(config), digest(tensors)


def shipped_codec(codec: Codec, wanted: str) -> Codec:
    """Fill `codec` with the shipped weights; LociError where they are not those `wanted`."""
    path = bundled("codec")
    _, tensors, _ = load_checkpoint(path, "codec")
    found = digest(tensors)
    if found != wanted:
        raise LociError(
            f"the recipe was made for codec {wanted}, but {path.name} is {found}; "
            "update the recipe, or restore that codec"
        )
    load_into(codec, tensors, path)
    return codec.eval()


def latent_episodes(config: WorldRun, codec: Codec) -> tuple[Tensor, Tensor]:
    """Latents (E, T, C, h, w) half precision and poses (E, T, 4, 4) of the training episodes.

    Rendered and encoded once, then read from the cache folder. Raises LociError for a file there
    that is truncated or altered.
    """
    size = f"{config.episodes}x{config.length}"
    key = f"latents-{FORMAT}-{config.codec}-{config.camera.hash()}-{size}"
    path = cache_folder("latents") / f"{key}.safetensors"
    if path.exists():
        return _read_latents(path)
    images, poses = render_training_set(
        range(config.episodes), config.length, config.camera, cache_folder("train")
    )
    starts = range(0, len(images), 8)
    pieces = [
        codec.encode(torch.from_numpy(images[i : i + 8])).half()
        for i in tracked(starts, "encoding episodes", len(starts))
    ]
    held = {"latents": torch.cat(pieces), "poses": torch.from_numpy(poses)}
    atomic_write(path, lambda temporary: save_file(held, temporary, {"digest": digest(held)}))
    return held["latents"], held["poses"]


def _read_latents(path: Path) -> tuple[Tensor, Tensor]:
    fix = f"delete {path}; it is made again"
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
            held = {name: file.get_tensor(name) for name in ("latents", "poses")}
    except (SafetensorError, OSError) as error:
        raise LociError(f"cannot read latents {path}: {error}; {fix}") from error
    if notes.get("digest") != digest(held):
        raise LociError(f"latents {path} are damaged: their checksum is another; {fix}")
    return held["latents"], held["poses"]


def small_transformer(channels: int) -> WanConfig:
    """The small default: what two CPU cores train in well under an hour."""
    return WanConfig(
        in_channels=channels, out_channels=channels, dim=128, ffn_dim=256, num_heads=4,
        num_layers=4, freq_dim=64, text_dim=0, camera="rotary",
    )
