"""Loop: everything is generated, out and back. Is the model consistent with its own world?

Mirrored pairs compare the return with the model's own way out at exactly equal poses, not the first
with the last frame. A blank or frozen picture is consistent with itself, so three guards stand
beside the pairs: `pair_margin` (how much more alike pairs are than frames of different poses),
`detail` and `movement` (as shares of the truth's).
Source: Echo-Memory (arXiv 2606.09803), in-domain loop; the guards are ours.
"""

from __future__ import annotations

import numpy as np

from loci.errors import LociError
from loci.study.rooms.metrics import detail, movement, psnr, ssim
from loci.study.rooms.objects import CaseScore, score_objects, tallies
from loci.study.rooms.truth import Truth

GROUPS = ("first",)


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
        pair_psnr=paired,
        pair_ssim=ssim(there, back),
        pair_margin=paired - other,
        detail=detail(video[truth.generated], truth.rgb[truth.generated]),
        movement=movement(video, truth.rgb),
    )
    shares, objects = score_objects(truth, video, GROUPS)
    return CaseScore(metrics | shares, objects)
