"""The recipes: functions that return the whole configuration of a run, by name."""

from __future__ import annotations

from collections.abc import Callable

from loci.training.run import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {}
