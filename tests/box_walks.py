"""Two walks through a room that is known exactly, with depth, and what training and a stream make
of them."""

from __future__ import annotations

import torch
from torch import Tensor

from boxes import CUBE, pose_of, view
from loci.data.survey import Surveyor
from loci.geometry import relative_to
from loci.memory.frames import Frames
from loci.models.world import WorldModel
from loci.streaming.session import Session

FRAMES, CHUNK, STARTS = 9, 2, [1, 3, 7]
EXTRAS = ("depth", "intrinsics", "images")


def episode(model: WorldModel, turns: tuple[float, ...] = (12.0, -9.0)) -> dict[str, Tensor]:
    """Two walks through a room that is known exactly, each turning its own way."""
    poses = torch.stack([
        torch.stack([pose_of(turn * n, (0.02 * n, 0.0, -0.03 * n)) for n in range(FRAMES)])
        for turn in turns
    ])
    views = [[view(p, 0, CUBE, model.config.camera) for p in walk] for walk in poses]
    draw = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(len(turns), FRAMES, *model.latent_shape, generator=draw),
        "poses": poses,
        "depth": torch.stack([torch.stack([v.depth for v in walk]) for walk in views]),
        "intrinsics": torch.stack([torch.stack([v.intrinsics for v in walk]) for walk in views]),
        "images": torch.stack([torch.stack([v.payload for v in walk]) for walk in views]),
        "noisy": torch.randn(len(turns), len(STARTS), CHUNK, *model.latent_shape, generator=draw),
        "time": torch.rand(len(turns), len(STARTS), generator=draw),
    }


def watch(
    session: Session, data: dict[str, Tensor], start: int, stop: int, rows: slice = slice(None),
    streams: list[int] | None = None,
) -> None:
    seen = {name: data[name][rows, start:stop] for name in ("latents", "poses", *EXTRAS)}
    session.write(seen.pop("latents"), seen.pop("poses"), streams, **seen)


def streamed(model: WorldModel, data: dict[str, Tensor]) -> Tensor:
    session, outputs, at = model.session(2), [], 0
    for group, start in enumerate(STARTS):
        watch(session, data | {"poses": data.get("told", data["poses"])}, at, start)
        at = start
        reading = session.read(data["poses"][:, start : start + CHUNK])
        outputs.append(session.denoise(reading, data["noisy"][:, group], data["time"][:, group]))
    return torch.stack(outputs, dim=1)


def surveyed(model: WorldModel, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is looked up once, beside no model."""
    config = model.config
    surveyor = Surveyor(config.memory, model.codec, config.camera, CHUNK)
    return surveyor.survey(Frames(
        data["latents"], relative_to(data["poses"][:, 0], data["poses"]),
        torch.zeros(data["latents"].shape[:2]), **{name: data[name] for name in EXTRAS},
    ))


def packed(model: WorldModel, data: dict[str, Tensor]) -> Tensor:
    return model(
        data["latents"], data["noisy"], data["time"], data["poses"], STARTS,
        extras={name: data[name] for name in EXTRAS}, told=data.get("told"),
    )
