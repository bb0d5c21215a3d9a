"""Recall: the way out is observed, the way back is generated, and everything has an exact truth.

The causal check repeats it with other memories: none of the past (only the last observed frame is
written), or the past of another room seen from the same poses (its last frame the true one, so that
the continuation starts from the same picture). What those two do not bring back, memory did.
Source: spatial memory benchmarks (true, empty and wrong-world memory); ours in detail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loci.study.rooms.metrics import detail, psnr, ssim_map
from loci.study.rooms.objects import CaseScore, score_objects, tallies
from loci.study.rooms.rollouts import MEMORIES
from loci.study.rooms.truth import Truth

GROUPS = ("first", "later")
CAUSAL_METRICS = ("identity_first", "identity_later", "psnr_seen")


def score_recall(truth: Truth, video: np.ndarray) -> CaseScore:
    """PSNR and SSIM on pixels seen before and newly revealed ones, identity and layout."""
    made, real = video[truth.generated], truth.rgb[truth.generated]
    similarity = ssim_map(made, real)
    metrics = tallies(
        psnr=psnr(made, real),
        psnr_seen=psnr(made, real, truth.seen),
        psnr_revealed=psnr(made, real, ~truth.seen),
        ssim=float(similarity.mean()),
        ssim_seen=_mean(similarity, truth.seen),
        ssim_revealed=_mean(similarity, ~truth.seen),
        detail=detail(made, real),
    )
    shares, objects = score_objects(truth, video, GROUPS)
    return CaseScore(metrics | shares, objects)


def score_causal(truth: Truth, video: np.ndarray) -> CaseScore:
    """The part of `score_recall` that the causal check compares."""
    shares, objects = score_objects(truth, video, GROUPS)
    seen = psnr(video[truth.generated], truth.rgb[truth.generated], truth.seen)
    return CaseScore(tallies(psnr_seen=seen) | shares, objects)


def causal_scores(scores: dict[str, Sequence[CaseScore]]) -> list[CaseScore]:
    """Recall scores with each memory, side by side: `identity_later_wrong` and so on."""
    joined = []
    for together in zip(*(scores[memory] for memory in MEMORIES), strict=True):
        metrics = {
            f"{name}_{memory}": score.metrics[name]
            for name in CAUSAL_METRICS
            for memory, score in zip(MEMORIES, together, strict=True)
        }
        joined.append(CaseScore(metrics))
    return joined


def _mean(values: np.ndarray, mask: np.ndarray) -> float | None:
    return float(values[mask].mean()) if mask.any() else None
