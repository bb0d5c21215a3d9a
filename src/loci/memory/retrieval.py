"""Retrieval rules: which past frames a chunk sees beside the first and the last.

A rule is a function of past (B, N, 4, 4) and targets (B, T, 4, 4), camera-to-world poses in metres
in one world frame a stream; the camera; the count wanted; and the reach, how far a view counts, in
metres. It returns (B, n) distinct frame indices, n = min(count, N - 2): the first and the last
frame are visible anyway and are passed over. n depends on N alone, and nothing is random, so that
training and streaming retrieve the same frames. No rule looks at pictures: all are blind to walls.

A new rule is one function here and one line in `RETRIEVALS`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loci.geometry import Camera
from loci.memory.overlap import points_in_view, view_overlap

Retrieval = Callable[[Tensor, Tensor, Camera, int, float], Tensor]


def recent(past: Tensor, targets: Tensor, camera: Camera, count: int, reach: float) -> Tensor:
    """The latest frames, the latest first; where the camera looks plays no part."""
    last = past.shape[1] - 2
    picks = torch.arange(last, last - _wanted(past, count), -1, device=past.device)
    return picks.repeat(len(past), 1)


def uniform(past: Tensor, targets: Tensor, camera: Camera, count: int, reach: float) -> Tensor:
    """Frames at equal distances in time between the first and the last; halves round up."""
    wanted = _wanted(past, count)
    steps = torch.arange(1, wanted + 1, device=past.device)
    gaps = wanted + 1
    picks = (2 * steps * (past.shape[1] - 1) + gaps) // (2 * gaps)
    return picks.repeat(len(past), 1)


def overlap(past: Tensor, targets: Tensor, camera: Camera, count: int, reach: float) -> Tensor:
    """The frames whose view overlaps the chunk's views most on average; of equals the later.

    Context-as-Memory's rule, which Echo-Memory (arXiv 2606.09803) uses, with true axes.
    """
    frames = past.shape[1]
    score = view_overlap(targets, past, camera, reach).mean(dim=1)
    score = score + 1e-6 * torch.arange(frames, device=score.device) / max(frames, 1)
    score[:, 0] = score[:, -1] = -1.0
    return score.topk(_wanted(past, count), dim=1).indices


def cover(past: Tensor, targets: Tensor, camera: Camera, count: int, reach: float) -> Tensor:
    """The frames that together see most of the chunk's views, taken one by one.

    Each is the one in whose view lie the most points of all target views that no frame taken so
    far has in view, the first and the last frame being taken from the start. Of equals, and so
    wherever nothing is left to gain, the one with the larger overlap; then the later.
    Source: ours; greedy maximum coverage (Nemhauser, Wolsey and Fisher, 1978).
    """
    seen = points_in_view(targets, past, camera, reach).transpose(1, 2).flatten(2)  # (B, N, T P)
    covered = seen[:, 0] | seen[:, -1]
    seen = seen[:, 1:-1]
    frames, points = seen.shape[1:]
    # Gain, then overlap, then time as the digits of one integer: exact, and never equal.
    second = seen.sum(-1) * frames + torch.arange(frames, device=seen.device)
    taken, picks = torch.zeros_like(second, dtype=torch.bool), []
    for _ in range(_wanted(past, count)):
        gain = (seen & ~covered[:, None]).sum(-1)
        rank = gain * ((points + 1) * frames) + second
        best = rank.masked_fill(taken, -1).argmax(dim=1, keepdim=True)
        covered = covered | seen.take_along_dim(best[..., None], dim=1)[:, 0]
        taken = taken.scatter(1, best, True)
        picks.append(best + 1)
    return torch.cat(picks, dim=1) if picks else second[:, :0]


def nearest(past: Tensor, targets: Tensor, camera: Camera, count: int, reach: float) -> Tensor:
    """The frames whose pose is nearest to one of the chunk's; of equals the later.

    Distance, to a micrometre, is metres between the positions plus reach / 2 metres for each radian
    between the orientations: a turn of one radian moves what is half the reach away by about that.
    Source: ours.
    """
    wanted = _wanted(past, count)
    past, targets = past.double()[:, 1:-1, None], targets.double()[:, None]
    offset = (past[..., :3, 3] - targets[..., :3, 3]).norm(dim=-1)  # (B, N - 2, T)
    # The chord between two rotations is sqrt(8) sin(angle / 2); exact near zero, unlike a trace.
    chord = (past[..., :3, :3] - targets[..., :3, :3]).flatten(-2).norm(dim=-1)
    angle = 2 * (chord / 8**0.5).clamp(max=1.0).asin()
    distance = (offset + reach / 2 * angle).amin(dim=-1)
    frames = distance.shape[1]
    rank = (1e6 * distance).round().long() * frames - torch.arange(frames, device=past.device)
    return rank.topk(wanted, dim=1, largest=False).indices + 1


RETRIEVALS: dict[str, Retrieval] = {
    "recent": recent,
    "uniform": uniform,
    "overlap": overlap,
    "cover": cover,
    "nearest": nearest,
}


def _wanted(past: Tensor, count: int) -> int:
    """How many frames there are to retrieve."""
    return min(count, max(past.shape[1] - 2, 0))
