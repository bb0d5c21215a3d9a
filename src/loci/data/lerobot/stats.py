"""An episode's statistics in a LeRobot v3.0 dataset: columns of its line in meta/episodes.

Source: huggingface/lerobot, src/lerobot/datasets/dataset_metadata.py, version v3.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from loci.data.lerobot.format import Feature
from loci.data.statistics import (
    Statistics,
    sampled,
    stored_statistic,
    thinned,
    vector_stats,
    visual_stats,
)


def episode_stats(
    frames: dict[str, np.ndarray], features: dict[str, Feature]
) -> dict[str, Statistics]:
    """Statistics of an episode's numbers and pictures, by feature; text has none."""
    statistics = {}
    for name, feature in features.items():
        if feature.visual:
            statistics[name] = visual_stats(thinned(frames[name][sampled(len(frames[name]))]))
        elif feature.numeric:
            statistics[name] = vector_stats(frames[name])
    return statistics


def to_line(stats: dict[str, Statistics]) -> dict[str, Any]:
    """An episode's statistics as columns of its line."""
    return {
        f"stats/{name}/{key}": value.tolist()
        for name, statistics in stats.items()
        for key, value in statistics.items()
    }


def of_line(line: dict[str, Any], features: dict[str, Feature]) -> dict[str, Statistics]:
    """The statistics in the columns of an episode's line, by feature."""
    statistics: dict[str, Statistics] = {}
    for column, value in line.items():
        head, _, rest = column.partition("/")
        name, _, key = rest.rpartition("/")
        if head == "stats" and name in features and value is not None:
            statistics.setdefault(name, {})[key] = stored_statistic(value)
    return statistics
