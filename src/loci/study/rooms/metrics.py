"""What is measured on frames: distances, which object it is and where.

Frames are uint8 RGB, (T, H, W, 3) or (H, W, 3); masks are boolean of the same leading shape. A
score over a mask with no pixel is None: absent, not zero.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from loci.errors import LociError

CEILING_DB = 60.0
"""PSNR of identical frames: rounding to 8 bits alone is 58.9 dB, and JSON has no infinity."""

LAYOUT_REACH = 8
LAYOUT_WITHIN = 2


def _same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise LociError(f"frames of shape {a.shape} and {b.shape} differ; compare equal shapes")


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Peak signal-to-noise ratio in dB from the squared error pooled over all (masked) pixels.

    Pooled, and not averaged over frames, so that a frame with few masked pixels counts as few.
    """
    _same_shape(a, b)
    error = np.square(a.astype(np.float32) - b.astype(np.float32)).mean(axis=-1)
    if mask is not None:
        if not mask.any():
            return None
        error = error[mask]
    mean = float(error.mean(dtype=np.float64))
    return min(CEILING_DB, 10 * float(np.log10(255.0**2 / mean))) if mean > 0 else CEILING_DB


def ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity of luminance at each pixel, (T, H, W), in windows of 7x7.

    Source: Wang et al., IEEE TIP 13 (2004), as scikit-image computes it.
    """
    _same_shape(a, b)
    maps = [
        structural_similarity(x, y, data_range=1.0, full=True)[1]
        for x, y in zip(rgb2gray(a), rgb2gray(b), strict=True)
    ]
    return np.stack(maps)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """The mean of `ssim_map`."""
    return float(ssim_map(a, b).mean())


def _gradient(video: np.ndarray) -> float:
    values = video.astype(np.float32)
    across = np.abs(np.diff(values, axis=-2)).mean(dtype=np.float64)
    down = np.abs(np.diff(values, axis=-3)).mean(dtype=np.float64)
    return float(across + down)


def detail(video: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute image gradient as a share of the truth's: 0 for a grey wall, 1 when as sharp.

    Source: ours; a guard beside consistency scores, which a blank wall satisfies.
    """
    _same_shape(video, truth)
    return _gradient(video) / max(_gradient(truth), 1e-9)


def movement(video: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute change between successive frames as a share of the truth's: 0 for a still.

    Source: ours; the control gate of a loop (a frozen picture is consistent with itself).
    """
    _same_shape(video, truth)

    def change(v: np.ndarray) -> float:
        return float(np.abs(np.diff(v.astype(np.float32), axis=0)).mean(dtype=np.float64))

    return change(video) / max(change(truth), 1e-9)


def nearest_candidate(
    frame: np.ndarray, candidates: np.ndarray, region: np.ndarray
) -> tuple[int, np.ndarray]:
    """Which candidate rendering the frame is nearest to inside `region`, and all squared errors.

    frame (H, W, 3), candidates (N, H, W, 3), region (H, W): wherever any candidate
    shows, so that all are compared on the same pixels. Any larger region would give the same
    winner: outside of it every rendering shows the same background, which adds the same number to
    each. Chance is 1 / N. Source: ours.
    """
    difference = candidates[:, region].astype(np.float32) - frame[region].astype(np.float32)
    errors = np.square(difference).mean(axis=(1, 2), dtype=np.float64)
    return int(errors.argmin()), errors


def best_shift(
    frame: np.ndarray, truth: np.ndarray, mask: np.ndarray, reach: int = LAYOUT_REACH
) -> tuple[int, int]:
    """Where the true object fits best in the frame: its shift (dx, dy) in pixels, right and down.

    The object's own pixels (truth under mask) are laid over the frame at every shift up to `reach`
    and compared by mean squared error. Pixels pushed off the frame are left out, and a shift that
    loses more than half of them is not considered. Ties go to the first shift scanned, the
    farthest corner, so that a blank frame is not called right. Chance of a shift within 2 px is
    25 / 289. Source: ours.
    """
    lines, columns = np.nonzero(mask)
    if not len(lines):
        raise LociError("an empty mask has no place; score objects that are visible")
    # A border of NaN stands for what lies off the frame.
    border = ((reach, reach), (reach, reach), (0, 0))
    padded = np.pad(frame.astype(np.float32), border, constant_values=np.nan)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1, 1)
    shifted = padded[lines + dy + reach, columns + dx + reach]
    errors = np.square(shifted - truth[lines, columns].astype(np.float32)).mean(axis=-1)
    inside = np.isfinite(errors)
    totals = np.where(inside, errors, 0.0).sum(axis=1, dtype=np.float64)
    counts = inside.sum(axis=1)
    means = np.where(2 * counts >= len(lines), totals / np.maximum(counts, 1), np.inf)
    best = int(means.argmin())
    return int(dx[best, 0]), int(dy[best, 0])


def in_place(shift: tuple[int, int], within: int = LAYOUT_WITHIN) -> bool:
    """Whether a shift is within `within` pixels on both axes."""
    return max(abs(shift[0]), abs(shift[1])) <= within


def perceptual(net: str = "alex") -> Callable[[np.ndarray, np.ndarray], float] | None:
    """LPIPS (Zhang et al., CVPR 2018) over two videos, or None where it is not installed.

    Absent unless both the `lpips` package and its backbone's weights are on this machine already:
    an evaluation does not download.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints"
    if importlib.util.find_spec("lpips") is None or not list(weights.glob(f"{net}net-*.pth")):
        return None
    import lpips  # pyrefly: ignore

    model = lpips.LPIPS(net=net, verbose=False).eval()

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        tensors = [torch.from_numpy(v).permute(0, 3, 1, 2) / 127.5 - 1 for v in (a, b)]
        with torch.inference_mode():
            return float(model(*tensors).mean())

    return distance
