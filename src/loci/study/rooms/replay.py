"""Replay: three chunks from the first frame along a known path. A health signal, not memory.

Source: Echo-Memory (arXiv 2606.09803), evaluation, with pixels revealed on the way set apart.
"""

from __future__ import annotations

import numpy as np

from loci.study.rooms.metrics import detail, perceptual, psnr, ssim
from loci.study.rooms.objects import CaseScore, tallies
from loci.study.rooms.truth import Truth

CHUNKS = 3


def score_replay(truth: Truth, video: np.ndarray) -> CaseScore:
    """PSNR and SSIM against the truth; LPIPS where it is installed, named by its net."""
    made, real = video[truth.generated], truth.rgb[truth.generated]
    metrics = tallies(
        psnr=psnr(made, real),
        psnr_seen=psnr(made, real, truth.seen),
        psnr_revealed=psnr(made, real, ~truth.seen),
        ssim=ssim(made, real),
        detail=detail(made, real),
    )
    distance = perceptual("alex")
    if distance is not None:
        metrics |= tallies(lpips_alex=distance(made, real))
    return CaseScore(metrics)
