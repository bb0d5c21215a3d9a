"""What may be written to a LeRobot v3.0 dataset: features, episodes, and to which dataset.

Source: ours, with the rules of huggingface/lerobot (feature_utils.py), which counts on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from loci.data.lerobot.format import DEFAULTS, DTYPES, Feature, Info
from loci.errors import LociError, did_you_mean


def valid_features(features: Mapping[str, Feature]) -> dict[str, Feature]:
    """The features, if they can be written; else raises LociError."""
    if not features:
        raise LociError("a dataset without features holds nothing; give some")
    for name, feature in features.items():
        if name in DEFAULTS:
            raise LociError(f"feature '{name}' is every dataset's own; leave it out")
        if "/" in name or not name:
            raise LociError(f"feature '{name}' has a '/' or no name; rename it")
        if not (feature.visual or feature.numeric or feature.dtype == "string"):
            near = did_you_mean(feature.dtype, DTYPES)
            raise LociError(f"feature '{name}' has dtype '{feature.dtype}'{near}")
        if not 1 <= len(feature.shape) <= 5 or min(feature.shape) < 1:
            raise LociError(
                f"feature '{name}' has shape {feature.shape}; give 1 to 5 sizes of 1 or more"
            )
        if feature.visual and (len(feature.shape) != 3 or feature.shape[-1] != 3):
            raise LociError(f"camera '{name}' has shape {feature.shape}; give (H, W, 3)")
    return dict(features)


def valid_episode(
    frames: Mapping[str, np.ndarray], features: Mapping[str, Feature]
) -> dict[str, np.ndarray]:
    """The arrays of an episode in the order of its `features`, those of shape (1,) as (T,).

    Raises LociError for features that are missing, unknown, of another dtype, shape or length, and
    for values that are not finite.
    """
    for name in frames:
        if name not in features:
            raise LociError(f"unknown feature '{name}' in an episode{did_you_mean(name, features)}")
    valid: dict[str, np.ndarray] = {}
    for name, feature in features.items():
        if name not in frames:
            raise LociError(f"an episode lacks the feature '{name}'; add it")
        valid[name] = _valid_values(name, frames[name], feature)
        length = len(next(iter(valid.values())))
        if not length:
            raise LociError("an episode of 0 frames holds nothing; leave it out")
        if len(valid[name]) != length:
            raise LociError(f"'{name}' has {len(valid[name])} frames, others {length}; cut them")
    return valid


def same_dataset(existing: Info, new: Info, folder: Path) -> None:
    """Raises LociError where episodes of `new` do not fit to those that `folder` has."""

    def kinds(info: Info) -> dict[str, str]:
        return {name: f"{f.dtype} {f.shape}" for name, f in info.features.items()}

    for what, there, given in (
        ("fps", existing.fps, new.fps),
        ("robot type", existing.robot_type, new.robot_type),
    ):
        if there != given:
            raise LociError(f"{folder} has {what} {there}, not {given}; give another folder")
    there, given = kinds(existing), kinds(new)
    for name in {**there, **given}:
        if there.get(name) != given.get(name):
            raise LociError(
                f"{folder} has feature '{name}' {there.get(name, 'not at all')}, the new episodes "
                f"{given.get(name, 'not at all')}; give another folder"
            )


def _valid_values(name: str, given: np.ndarray, feature: Feature) -> np.ndarray:
    text = feature.dtype == "string"
    values = np.asarray(given, object if text else None)
    if feature.shape == (1,) and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    dtype = np.dtype(object if text else np.uint8 if feature.visual else feature.dtype)
    shape = () if feature.shape == (1,) else feature.shape
    if values.dtype != dtype or not values.ndim or values.shape[1:] != shape:
        wanted = ", ".join(["T", *map(str, shape)])
        raise LociError(f"'{name}' is {values.dtype} {values.shape}; give {dtype} ({wanted})")
    if text and not all(isinstance(value, str) for value in values.ravel()):
        raise LociError(f"'{name}' holds something else than text; give strings")
    if dtype.kind == "f" and not np.isfinite(values).all():
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        raise LociError(
            f"'{name}' is not finite in frame {int(np.argmin(finite))}; leave the episode out"
        )
    return values
