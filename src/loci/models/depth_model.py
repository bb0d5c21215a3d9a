"""The depth models of transformers as estimators of depth.

Some predict relative depth: inverse depth up to a scale and a shift (DPT, arXiv 2103.13413;
Depth Anything, 2401.10891 and 2406.09414). Others predict metres (its metric variants; ZoeDepth,
2302.12288; Depth Pro, 2410.02073; GLPN, 2201.07436). Both are aligned over a clip
(`loci.geometry.alignment`). Nothing is downloaded unless that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from loci.errors import LociError
from loci.errors.arguments import Holds, check_tensor
from loci.geometry.alignment import Aligned, Alignment, Predicted, check_predicted
from loci.io.extras import extra

# What a kind of model predicts. That of Depth Anything is in its configuration.
METRIC = {"dpt": False, "zoedepth": True, "depth_pro": True, "glpn": True}
DEPTH_PRO, ZOE = "depth_pro", "zoedepth"
# The first block of a DPT head fuses nothing: published files lack its weights, and none are used.
UNUSED = "fusion_stage.layers.0.residual_layer1."
# Inverse depths that Depth Pro may mean, in 1/m. What is farther away is unknown.
RANGE = (1e-4, 1e4)


@dataclass(frozen=True)
class DepthModel:
    """A depth model, a `DepthEstimator`.

    model: one of transformers' depth models. prepare: its settings for pictures, or its image
    processor. metric: whether it predicts metres. alignment: of a clip. batch: pictures at a time.
    """

    model: nn.Module
    prepare: Any
    metric: bool
    alignment: Alignment = field(default_factory=Alignment)
    batch: int = 8

    @classmethod
    def load(
        cls, name: str | Path, download: bool = False, metric: bool | None = None,
        alignment: Alignment | None = None, device: torch.device | str = "cpu", batch: int = 8,
    ) -> DepthModel:
        """The model in a folder, or of that name on the hub, in fp32 and evaluation mode.

        download: whether what is not here yet may be fetched. metric: what it predicts, for models
        whose kind does not tell (a DPT that was trained on metres, say). Raises MissingExtra
        without transformers, LociError for files that are missing, damaged, or of a model that
        does not predict depth.
        """
        with extra("depth"):  # imported here: it takes seconds
            from transformers import (
                AutoConfig,
                AutoImageProcessor,
                AutoModelForDepthEstimation,
                ImageProcessingMixin,
            )
        if batch < 1:
            raise LociError(f"pictures in batches of {batch}; give 1 or more")
        name, here = str(name), {"local_files_only": not download}
        if Path(name).is_absolute() and not Path(name).is_dir():
            raise LociError(f"no depth model at {name}; check the path")
        try:
            config = AutoConfig.from_pretrained(name, **here)
            metric = _metric(config, name) if metric is None else metric
            if config.model_type == DEPTH_PRO:
                # Its processor needs torchvision.
                prepare, _ = ImageProcessingMixin.get_image_processor_dict(name, **here)
            else:
                prepare = AutoImageProcessor.from_pretrained(name, **here)
            model, found = AutoModelForDepthEstimation.from_pretrained(
                name, output_loading_info=True, dtype=torch.float32, **here
            )
        except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
            cause = str(error).strip().partition("\n")[0].rstrip(".")
            fix = "check the name" if download else "give its folder, or allow the download"
            fix = "give a folder with all files of one" if Path(name).is_dir() else fix
            raise LociError(f"no depth model '{name}': {cause}; {fix}") from error
        lacking = [key for key in found["missing_keys"] if UNUSED not in key]
        lacking += [str(key) for key in found["mismatched_keys"]]
        if lacking:
            raise LociError(
                f"the depth model '{name}' lacks {len(lacking)} weights ({sorted(lacking)[0]}, "
                "say); give all of its files"
            )
        return cls(model.eval().to(device), prepare, metric, alignment or Alignment(), batch)

    def __call__(
        self, images: Tensor, poses: Tensor | None = None, intrinsics: Tensor | None = None
    ) -> Tensor:
        """Depth (T, H, W) of a whole clip; see `extend`."""
        return self.extend(images, poses, intrinsics)[0]

    def extend(
        self, images: Tensor, poses: Tensor | None = None, intrinsics: Tensor | None = None,
        state: Aligned | None = None,
    ) -> tuple[Tensor, Aligned | None]:
        """Depth (T, H, W) fp32 of images (T, H, W, 3) uint8, 0 where unknown, and the state from
        which the clip goes on. No frame depends on a later one.

        poses (T, 4, 4) camera-to-world and intrinsics (T, 3, 3): without them metric depth is what
        the model says, each frame by itself, and relative depth of one frame has a median of 1.
        state: of the frames before. Raises LociError for predictions that are no depth, and for
        relative depth of a clip without poses.
        """
        predicted = self.predict(images, intrinsics)
        if poses is not None and intrinsics is None:
            raise LociError("poses without intrinsics; give both, or neither")
        if poses is not None and intrinsics is not None:
            return self.alignment.align(predicted, poses, intrinsics, state)
        if self.metric:
            return check_predicted(predicted).float(), None
        if len(images) > 1 or state is not None:
            raise LociError(
                "relative depth differs in scale from frame to frame; give poses and intrinsics, "
                "or use a metric model"
            )
        # One frame is aligned to nothing: any camera will do.
        height, width = predicted.values.shape[1:]
        matrix = torch.tensor([[1.0, 0, width / 2], [0, 1.0, height / 2], [0, 0, 1.0]])
        depth, _ = self.alignment.align(predicted, torch.eye(4)[None], matrix[None])
        return depth, None

    @torch.no_grad()
    def predict(self, images: Tensor, intrinsics: Tensor | None = None) -> Predicted:
        """What the model says of images (T, H, W, 3) uint8, each by itself, in their size.

        intrinsics (T, 3, 3): Depth Pro takes its focal length from there, instead of guessing it.
        """
        check_tensor(images, "images", ("T", "H", "W", 3), Holds.BYTES)
        if intrinsics is not None:
            check_tensor(intrinsics, "intrinsics", (len(images), 3, 3))
        device = next(self.model.parameters()).device
        found = []
        for at in range(0, len(images), self.batch):
            part = images[at : at + self.batch]
            output = self.model(pixel_values=self._pixels(part).to(device))
            focal = None if intrinsics is None else intrinsics[at : at + self.batch, 0, 0]
            found.append(self._resized(output, part, focal).to(images.device))
        return Predicted(torch.cat(found), self.metric)

    @property
    def kind(self) -> str:
        """The kind of the model, as transformers calls it."""
        return str(self.model.config.model_type)  # pyrefly: ignore

    def _pixels(self, images: Tensor) -> Tensor:
        """Images (n, H, W, 3) uint8 as the model wants them, (n, 3, h, w)."""
        if self.kind != DEPTH_PRO:
            return self.prepare(images=list(images.cpu().numpy()), return_tensors="pt").pixel_values
        settings = self.prepare
        mean, std = (
            torch.tensor(settings.get(name, [0.5] * 3)).view(3, 1, 1)
            for name in ("image_mean", "image_std")
        )
        size = settings.get("size", {"height": 1536, "width": 1536})
        scaled = (images.cpu().movedim(3, 1) * settings.get("rescale_factor", 1 / 255) - mean) / std
        return F.interpolate(scaled, (size["height"], size["width"]), mode="bilinear")

    def _resized(self, output: Any, images: Tensor, focal: Tensor | None) -> Tensor:
        """Predictions (n, H, W) fp32 in the size of the images. Bilinear: bicubic would overshoot
        at edges, below 0 even."""
        height, width = images.shape[1:3]
        values = output.predicted_depth.float()[:, None]
        if self.kind == DEPTH_PRO:
            values = F.interpolate(values, (height, width), mode="bilinear")[:, 0]
            if focal is None:
                if output.field_of_view is None:
                    raise LociError("this Depth Pro guesses no focal length; give intrinsics")
                fov = torch.deg2rad(output.field_of_view.float())
                focal = 0.5 * width / torch.tan(fov / 2)
            # What is predicted is inverse depth at a focal length of the picture's width.
            inverse = values * (width / focal.to(values))[:, None, None]
            depth = torch.where(inverse >= RANGE[0], 1 / inverse.clamp(*RANGE), 0.0)
            return torch.where(inverse.isfinite(), depth, inverse)
        padded = self.kind == ZOE and self.prepare.do_pad
        # ZoeDepth's processor lays a border around pictures (`pad_image`), which goes here.
        down, across = (int((side / 2) ** 0.5 * 3) if padded else 0 for side in (height, width))
        whole = (height + 2 * down, width + 2 * across)
        values = F.interpolate(values, whole, mode="bilinear")[:, 0]
        return values[:, down : down + height, across : across + width]


def _metric(config: Any, name: str) -> bool:
    """Whether a model predicts metres. LociError where nothing tells."""
    stated = getattr(config, "depth_estimation_type", None)
    if stated is not None:
        return stated == "metric"
    if config.model_type not in METRIC:
        raise LociError(
            f"'{name}' is a {config.model_type}, and whether it predicts metres is not known; say "
            "so: metric=True or False"
        )
    return METRIC[config.model_type]
