"""How the outcome of each branch is scored.

- *Replay*: three chunks from the first frame along a known path. A health signal, not memory.
- *Recall*: the way out is observed, the way back is generated, and everything has an exact truth.
- *Causal check*: recall again with other memories: none of the past (only the last observed frame
  is written), or the past of another room seen from the same poses (its last frame the true one, so
  that the continuation starts from the same picture). What those do not bring back, memory did.
- *Loop*: everything is generated, out and back. Is the model consistent with its own world?
  Mirrored pairs compare the return with the model's own way out at exactly equal poses. A blank or
  frozen picture is consistent with itself, so three guards stand beside the pairs: `pair_margin`
  (how much more alike pairs are than frames of different poses), `detail` and `movement` (as shares
  of the truth's).

Source: Echo-Memory (arXiv 2606.09803), replay and loop; spatial memory benchmarks (true, empty and
wrong-world memory); guards and details are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loci.data.truth import Truth
from loci.errors import LociError
from loci.study.rooms.metrics import detail, movement, perceptual, psnr, ssim, ssim_map
from loci.study.rooms.objects import CaseScore, score_objects, tallies
from loci.study.rooms.rollouts import MEMORIES

RECALL_GROUPS = ("first", "later")
LOOP_GROUPS = ("first",)
REPLAY_CHUNKS = 3
CAUSAL_METRICS = ("identity_first", "identity_later", "psnr_seen")

def score_replay(truth: Truth, video: np.ndarray) -> CaseScore:
    """PSNR and SSIM against the truth; LPIPS where it is installed, named by its net."""
    made, real = video[truth.generated], truth.rgb[truth.generated]
    metrics = tallies(
        psnr=psnr(made, real), psnr_seen=psnr(made, real, truth.seen),
        psnr_revealed=psnr(made, real, ~truth.seen), ssim=ssim(made, real),
        detail=detail(made, real),
    )
    distance = perceptual("alex")
    if distance is not None:
        metrics |= tallies(lpips_alex=distance(made, real))
    return CaseScore(metrics)


def score_recall(truth: Truth, video: np.ndarray) -> CaseScore:
    """PSNR and SSIM on pixels seen before and newly revealed ones, identity and layout."""
    made, real = video[truth.generated], truth.rgb[truth.generated]
    similarity = ssim_map(made, real)
    metrics = tallies(
        psnr=psnr(made, real), psnr_seen=psnr(made, real, truth.seen),
        psnr_revealed=psnr(made, real, ~truth.seen), ssim=float(similarity.mean()),
        ssim_seen=_mean(similarity, truth.seen), ssim_revealed=_mean(similarity, ~truth.seen),
        detail=detail(made, real),
    )
    shares, objects = score_objects(truth, video, RECALL_GROUPS)
    return CaseScore(metrics | shares, objects)


def score_causal(truth: Truth, video: np.ndarray) -> CaseScore:
    """The part of `score_recall` that the causal check compares."""
    shares, objects = score_objects(truth, video, RECALL_GROUPS)
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


def score_loop(truth: Truth, video: np.ndarray) -> CaseScore:
    """PSNR and SSIM of mirrored pairs, the guards, and the first frame's objects come back."""
    if not len(truth.pairs):
        raise LociError(f"case {truth.case.key} has no mirrored pairs; take a path that returns")
    there, back = video[truth.pairs[:, 0]], video[truth.pairs[:, 1]]
    # Half a way apart: as different as the path allows.
    elsewhere = np.roll(back, max(1, len(back) // 2), axis=0)
    paired, other = psnr(there, back), psnr(there, elsewhere)
    assert paired is not None
    assert other is not None
    metrics = tallies(
        pair_psnr=paired, pair_ssim=ssim(there, back), pair_margin=paired - other,
        detail=detail(video[truth.generated], truth.rgb[truth.generated]),
        movement=movement(video, truth.rgb),
    )
    shares, objects = score_objects(truth, video, LOOP_GROUPS)
    return CaseScore(metrics | shares, objects)
