"""Statistics of features, as LeRobot v3.0 keeps them: of an episode, and of episodes together.

Source: huggingface/lerobot, src/lerobot/datasets/compute_stats.py. Mean, deviation, least and
greatest are exact. Quantiles of an episode come from a histogram of 5,000 bins. Those of a dataset
are the envelope of its episodes': the least of those below a half, the greatest of those above. A
weighted mean, as LeRobot had it first, may leave out most values where episodes differ in kind.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)
BINS = 5000

Statistics = dict[str, np.ndarray]


def vector_stats(values: np.ndarray) -> Statistics:
    """Statistics of numbers or booleans (T, ...) over time.

    Arrays of float64 (1,) for values (T,) or (T, 1), (D,) for (T, D); of values with more axes the
    last is kept, as LeRobot does. `count` is int64 (1,), T.
    """
    flat = np.asarray(values, np.float64)
    flat = flat.reshape(-1, 1) if flat.ndim == 1 else flat.reshape(-1, flat.shape[-1])
    stats = {
        "min": flat.min(axis=0),
        "max": flat.max(axis=0),
        "mean": flat.mean(axis=0),
        "std": flat.std(axis=0),
        "count": np.array([len(values)]),
    }
    columns = [_quantiles(column) for column in flat.T]
    return stats | {name: np.array([c[name] for c in columns]) for name in QUANTILES}


def visual_stats(frames: np.ndarray) -> Statistics:
    """Statistics of the channels of uint8 frames (T, H, W, C), scaled to 0..1.

    Arrays of float64 (C, 1, 1); `count` is int64 (1,), the number of frames.
    """
    levels = np.arange(256.0)
    rows: dict[str, list[float]] = {name: [] for name in NAMES if name != "count"}
    for channel in np.moveaxis(frames, -1, 0):
        counts = np.bincount(channel.ravel(), minlength=256)
        present = levels[counts > 0]
        mean = levels @ counts / counts.sum()
        rows["min"].append(present[0])
        rows["max"].append(present[-1])
        rows["mean"].append(mean)
        rows["std"].append(float(np.sqrt((levels - mean) ** 2 @ counts / counts.sum())))
        for name, value in _quantiles(present, counts[counts > 0]).items():
            rows[name].append(value)
    scaled = {name: np.array(row).reshape(-1, 1, 1) / 255 for name, row in rows.items()}
    return scaled | {"count": np.array([len(frames)])}


def sampled(length: int) -> np.ndarray:
    """Which frames of an episode of `length` frames its visual statistics are taken from.

    Evenly spread: all of 100 or fewer, length^0.75 of more, at most 10,000.
    """
    count = max(min(length, 100), min(int(length**0.75), 10_000))
    return np.round(np.linspace(0, length - 1, count)).astype(int)


def thinned(frames: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, C); sides of 300 pixels and more are subsampled to about 150."""
    height, width = frames.shape[1:3]
    if max(height, width) < 300:
        return frames
    step = max(height, width) // 150
    return frames[:, ::step, ::step]


def stored_statistic(value: object) -> np.ndarray:
    """A statistic as a file has it, one dimension or more; those of booleans become numbers."""
    numbers = np.atleast_1d(np.array(value))
    return numbers.astype(np.float64) if numbers.dtype == bool else numbers


def combine(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of several parts taken together, from their statistics alone.

    Mean and deviation are those of all values (Chan et al. 1979). Quantiles below a half are the
    least of the parts', those above a half the greatest, so that 98 % of all values or more lie
    between q01 and q99. The median is the weighted mean of the parts'.
    """
    parts = list(parts)
    counts = np.stack([p["count"] for p in parts]).astype(np.float64)
    total = counts.sum(axis=0)
    weights = counts.reshape((-1,) + (1,) * parts[0]["mean"].ndim) / total

    def weighted(values: list[np.ndarray]) -> np.ndarray:
        return (np.stack(values) * weights).sum(axis=0)

    mean = weighted([p["mean"] for p in parts])
    variance = weighted([p["std"] ** 2 + (p["mean"] - mean) ** 2 for p in parts])
    stats = {
        "min": np.min([p["min"] for p in parts], axis=0),
        "max": np.max([p["max"] for p in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": total.astype(np.int64),
    }
    shared = [name for name in QUANTILES if all(name in p for p in parts)]
    for name in shared:
        values, share = [p[name] for p in parts], QUANTILES[name]
        edge = np.min if share < 0.5 else np.max
        stats[name] = weighted(values) if share == 0.5 else edge(values, axis=0)
    return stats


def _quantiles(values: np.ndarray, counts: np.ndarray | None = None) -> dict[str, float]:
    """Quantiles of float64 values (N,), each there once or `counts` times, from a histogram."""
    total = len(values) if counts is None else counts.sum()
    if total < 2:
        return dict.fromkeys(QUANTILES, float(values[0]))
    edges = np.linspace(values.min() - 1e-10, values.max() + 1e-10, BINS + 1)
    cumulative = np.cumsum(np.histogram(values, bins=edges, weights=counts)[0])
    quantiles = {}
    for name, share in QUANTILES.items():
        bin_ = int(np.searchsorted(cumulative, share * total))
        if bin_ == 0:
            quantiles[name] = float(edges[0])
            continue
        before, inside = cumulative[bin_ - 1], cumulative[bin_] - cumulative[bin_ - 1]
        part = (share * total - before) / inside
        quantiles[name] = float(edges[bin_] + part * (edges[bin_ + 1] - edges[bin_]))
    return quantiles
