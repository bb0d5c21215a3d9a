"""Training of the small image codec: reconstruct views of rooms through slightly noisy latents.

Source: ours. The noise makes neighbouring latents decode alike, so that the decoder forgives the
errors of a generated latent; the colour augmentation stands for rooms never seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from loci.geometry import Camera
from loci.io.progress import tracked
from loci.models.codecs import ImageCodecConfig, to_float
from loci.training.run import RunConfig
from loci.training.task import Batch, Losses, Task
from loci.worlds.rooms.room import camera_pose, room_rng, sample_room


@dataclass(frozen=True, kw_only=True)
class CodecRun(RunConfig, name="codec"):
    """What a codec is trained on.

    rooms, views: training rooms, and random views of each. batch: images a step. noise: largest
    standard deviation of the noise on unit-variance latents, drawn per image from [0, noise].
    recolour: share of the images whose colours are remixed.
    """

    kind: ClassVar[str] = "codec"
    codec: ImageCodecConfig = field(default_factory=ImageCodecConfig)
    camera: Camera = field(default_factory=Camera)
    rooms: int = 1500
    views: int = 4
    batch: int = 16
    noise: float = 0.2
    recolour: float = 0.5

    def task(self) -> CodecTask:
        return CodecTask(self)


class CodecTask(Task):
    """Views of training rooms in; the mean squared error of their reconstruction out.

    Renders its views when it is made (rooms x views images). A batch depends on the seed and the
    step alone, so that training resumes to the same weights.
    """

    splits = False

    def __init__(self, config: CodecRun):
        self.config = config
        self.module = config.codec.build()
        self.latent = self.module.latent_shape(config.camera)
        self.images = torch.from_numpy(
            np.concatenate([
                random_views(config, room)
                for room in tracked(range(config.rooms), "rendering views of rooms", config.rooms)
            ])
        )

    def batch(self, step: int) -> Batch:
        """images (N, 3, H, W) float in [-1, 1] and noise (N, C, h, w)."""
        config = self.config
        rng = np.random.default_rng([config.train.seed, step])
        chosen = torch.from_numpy(rng.integers(len(self.images), size=config.batch))
        images = to_float(self.images[chosen]).permute(0, 3, 1, 2)
        mirrored = torch.from_numpy(rng.random(config.batch) < 0.5)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        recoloured = round(config.recolour * config.batch)
        images = torch.cat([recolour(images[:recoloured], rng), images[recoloured:]])
        size = config.noise * rng.random((config.batch, 1, 1, 1), np.float32)
        noise = size * rng.standard_normal((config.batch, *self.latent), np.float32)
        return {"images": images, "noise": torch.from_numpy(noise)}

    def loss(self, batch: Batch) -> Losses:
        """The mean squared error of each image in [-1, 1], and the PSNR in dB that it amounts to.

        The codec standardises its latents by the statistics of the batch: hence in one piece.
        """
        rebuilt = self.module(batch["images"], batch["noise"])
        losses = (rebuilt - batch["images"]).square().flatten(1).mean(1)
        return losses, {"psnr": -10 * torch.log10(losses.detach() / 4)}


def random_views(config: CodecRun, seed: int, split: str = "train") -> np.ndarray:
    """Images (views, H, W, 3) uint8 of room `seed` from random places and headings in it."""
    room = sample_room(seed, split)
    rng = room_rng(split, seed, "codec views")
    radius = room.free_radius * np.sqrt(rng.uniform(size=config.views))
    angle, yaw = rng.uniform(0, 2 * np.pi, size=(2, config.views))
    poses = [
        camera_pose(r * np.sin(a), r * np.cos(a), y)
        for r, a, y in zip(radius, angle, yaw, strict=True)
    ]
    return room.render(np.stack(poses), config.camera).rgb


def recolour(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Images (N, 3, H, W) in [-1, 1] with channels swapped, scaled, inverted and shifted."""
    count = len(images)
    order = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
    scale = rng.uniform(0.5, 1.2, (count, 3)) * np.where(rng.random((count, 3)) < 0.25, -1, 1)
    mixed = torch.take_along_dim(images, torch.from_numpy(order)[:, :, None, None], dim=1)
    scale = torch.from_numpy(scale.astype(np.float32))[:, :, None, None]
    shift = torch.from_numpy(rng.uniform(-0.3, 0.3, (count, 3, 1, 1)).astype(np.float32))
    return (mixed * scale + shift).clamp(-1.0, 1.0)
