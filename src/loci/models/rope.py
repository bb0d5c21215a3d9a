"""Rotary positions, computed on the fly so that no length is the last one.

Pairs of neighbouring channels are rotated by angles; queries and keys only ever meet through the
difference of their angles. `wan_angles` are Wan's three axes (frame, row, column); `camera_angles`
put a token where its ray points in the world.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from loci.geometry import Camera
from loci.rules.rule import Coords
from loci.streaming.kv_cache import ordinary


def wan_angles(coords: Coords, head_dim: int, theta: float = 1e4) -> Tensor:
    """Wan's 3-D rotary angles, (..., S, head_dim / 2), float64.

    Of head_dim channels, 2 (head_dim // 6) go to the rows, as many to the columns and the rest to
    the frame (128 = 44 + 42 + 42). Frequencies theta^(-2i/d), as in Wan 2.1 and 2.2.
    """
    side = 2 * (head_dim // 6)
    axes = ((coords.frame, head_dim - 2 * side), (coords.row, side), (coords.col, side))
    parts = []
    for position, width in axes:
        steps = torch.arange(0, width, 2, dtype=torch.float64, device=position.device)
        parts.append(position.double()[..., None] * theta ** (-steps / width))
    return torch.cat(parts, dim=-1)


@lru_cache(maxsize=32)
@ordinary()
def token_rays(
    camera: Camera, shape: tuple[int, int], gists: int = 0, device: torch.device | None = None
) -> Tensor:
    """Unit ray of each token of a frame in camera axes, (h*w + gists, 3), float64. Kept, since
    every step asks for it: change a copy.

    Token (r, c) of an h x w grid looks through the centre of its patch. The gists of a frame look
    straight ahead and spread evenly from left to right: they summarise the frame, not a patch.
    """
    rows, cols = shape
    half_width = torch.tan(torch.deg2rad(torch.tensor(camera.fov / 2, dtype=torch.float64)))
    half_height = half_width * camera.height / camera.width
    x = ((torch.arange(cols, dtype=torch.float64) + 0.5) * 2 / cols - 1) * half_width
    y = ((torch.arange(rows, dtype=torch.float64) + 0.5) * 2 / rows - 1) * half_height
    down, across = torch.meshgrid(y, x, indexing="ij")
    grid = torch.stack([across, down, torch.ones_like(down)], dim=-1).reshape(-1, 3)
    spread = ((torch.arange(gists, dtype=torch.float64) + 0.5) * 2 / max(gists, 1) - 1) * half_width
    gist = torch.stack([spread, torch.zeros_like(spread), torch.ones_like(spread)], dim=-1)
    rays = torch.cat([grid, gist])
    return (rays / rays.norm(dim=-1, keepdim=True)).to(device)


# Whole turns close exactly only at integer frequencies; metres have no period to respect.
AZIMUTH = (1, 2, 3, 4, 6, 9, 13, 18)
ELEVATION = (2, 5, 9, 15)
METRES = (0.7, 2.2)


def camera_angles(poses: Tensor, rays: Tensor, head_dim: int) -> Tensor:
    """Rotary angles of tokens from where they look and stand, (B, F * P, head_dim / 2), float64.

    poses (B, F, 4, 4) camera-to-world relative to the stream's first frame; rays (P, 3) camera
    axes. Half of the channels turn with the ray's azimuth in the world (integer frequencies, so
    that 360 degrees close), a quarter with its elevation, the rest with the camera's place on the
    ground plane. Two tokens that look at the same far point agree whatever frame they come from.
    Source: ours; the idea of camera-relative attention is that of GTA (arXiv 2310.10375) and PRoPE
    (arXiv 2507.10496).
    """
    poses = poses.double()
    direction = rays @ poses[..., :3, :3].mT  # (B, F, P, 3)
    x, y, z = direction.unbind(-1)
    azimuth = torch.atan2(x, z)
    elevation = torch.atan2(-y, torch.hypot(x, z))
    place = poses[..., None, :3, 3].expand_as(direction)
    sources = (azimuth, elevation, place[..., 0], place[..., 2])
    steps = _frequencies(head_dim // 2, poses.device)
    parts = [value[..., None] * step for value, step in zip(sources, steps, strict=True)]
    return torch.cat(parts, dim=-1).flatten(1, 2)


@lru_cache(maxsize=32)
@ordinary()
def _frequencies(pairs: int, device: torch.device) -> list[Tensor]:
    """Of azimuth, elevation and the two metres, which share `pairs` channel pairs; float64."""
    share = (pairs // 2, pairs // 4, pairs // 8, pairs - pairs // 2 - pairs // 4 - pairs // 8)
    return [
        torch.tensor(_spread(chosen, count), dtype=torch.float64, device=device)
        for chosen, count in zip((AZIMUTH, ELEVATION, METRES, METRES), share, strict=True)
    ]


def _spread(frequencies: tuple[float, ...], count: int) -> list[float]:
    """`count` of the frequencies, evenly chosen, repeated from the start where there are fewer."""
    if count <= len(frequencies):
        picks = torch.linspace(0, len(frequencies) - 1, count).round().long().tolist()
        return [frequencies[i] for i in picks]
    return [frequencies[i % len(frequencies)] for i in range(count)]
