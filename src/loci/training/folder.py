"""The folder of a training run: its settings, its log, its state.

    config.json         the settings that the run was started with
    train.jsonl         the protocol, then one line every few steps
    state.safetensors   everything needed to go on: weights, optimizer, average, step
    model.safetensors   the result, written by the recipe at the end
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from loci.config import Config, settings_hash
from loci.errors import LociError
from loci.io.files import atomic_write
from loci.io.migrations import migrate
from loci.io.output_folder import Kind, OutputFolder, difference

log = logging.getLogger(__name__)
Settings = TypeVar("Settings", bound=Config)


class RunFolder(Generic[Settings]):
    """One run's folder. `open` looks at it, `claim` makes it this run's."""

    def __init__(self, path: Path, settings: Settings, resume: bool = False):
        self.path, self.settings, self.resume = path, settings, resume
        self.log_path = path / "train.jsonl"
        self.state_path = path / "state.safetensors"
        self.config_path = path / "config.json"

    @classmethod
    def open(cls, path: str | Path, settings: Settings, resume: bool = False) -> Self:
        """The folder of a run with `settings`, new or with what was made of the run before.

        Writes nothing. Raises LociError where a run is there and `resume` was not given, where its
        settings are others, where another process writes it, and where nothing can be written.
        With `resume` an empty folder starts a run: a run may be killed that early. A finished run
        of fewer steps is extended: then `settings` of the result say after how many steps it was.
        """
        folder = cls(Path(path), settings, resume)
        OutputFolder.open(path, Kind.TRAINING)
        folder._check()
        return folder

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Make the folder this run's, until the end of the block: lock it, write its settings, and
        clear what a kill left behind. Raises what `open` raises: time has passed."""
        with OutputFolder.open(self.path, Kind.TRAINING).begin():
            extends = self._check()
            text = self.settings.to_json() + "\n"
            if self.recorded() != json.loads(text):
                atomic_write(self.config_path, text)
            if extends:
                now = _length(json.loads(text))["steps"]
                log.info(
                    "%s was finished after %d steps and goes on to %d: the learning rate warms up "
                    "again, then follows the schedule of %d steps", self.path, extends, now, now,
                )
            # A kill in the middle of a write leaves the unfinished temporary file: ours, or the
            # one that the safetensors library writes first.
            for pattern in (".*-*.safetensors", ".tmp??????"):
                for stale in self.path.glob(pattern):
                    stale.unlink()
            yield

    def _check(self) -> int:
        """Compare with the run that is there, and take over its length. The number of steps that it
        was finished after, where this makes it longer, or 0."""
        there = self.recorded()
        if there is None:
            return 0
        here = json.loads(self.settings.to_json())
        if not same_run(there, here):
            other = difference(_without_length(there), _without_length(here))
            raise LociError(
                f"{self.path} holds a run with other settings ({other}); "
                "repeat its options or choose another folder"
            )
        before, now = _length(there), _length(here)
        steps = before["steps"]
        finished = any(
            line.get("event") == "end" and line["step"] == steps for line in self.lines()
        )
        if now["steps"] < steps or (now["steps"] > steps and not finished):
            state = "" if finished else ", and is not finished"
            raise LociError(
                f"{self.path} holds this run with other settings (train.steps: {steps} there, "
                f"{now['steps']} now){state}; repeat its options or choose another folder"
            )
        if not self.resume:
            raise LociError(
                f"{self.path} already holds this run; continue it with --resume "
                "or choose another folder"
            )
        longer = now["steps"] > steps
        ends = [*before.get("extended", ()), *([steps] if longer else [])]
        if ends:
            self.settings = _extended(self.settings, tuple(ends))
        return steps if longer else 0

    def recorded(self) -> dict[str, Any] | None:
        """The settings in config.json, in today's form; None where there is no run."""
        found = recipe_of(self.path)
        return None if found is None else found[1]

    def lines(self) -> list[dict[str, Any]]:
        """The log's lines, without what a kill left unfinished at its end."""
        if not self.log_path.exists():
            return []
        lines: list[dict[str, Any]] = []
        for text in self.log_path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
        return lines

    def rewind(self, step: int) -> None:
        """Forget the log's lines after `step` steps: those steps are made again."""
        kept = [line for line in self.lines() if line.get("step", 0) <= step]
        atomic_write(self.log_path, "".join(json.dumps(line) + "\n" for line in kept))

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line, whole, and hand it to the operating system."""
        # Strict JSON knows no NaN or infinity.
        sound = {k: None if _unsound(v) else v for k, v in line.items()}
        try:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(sound, allow_nan=False) + "\n")
        except OSError as error:
            raise LociError(
                f"cannot write {self.log_path}: {error.strerror}; make room, then --resume"
            ) from error

    def sync(self) -> None:
        """Put the log on the disk: it must not be behind the state."""
        if self.log_path.exists():
            with self.log_path.open("rb+") as file:
                os.fsync(file.fileno())


def _extended(settings: Settings, ends: tuple[int, ...]) -> Settings:
    """The same settings of a run that was finished after so many steps before."""
    train = getattr(settings, "train", None)
    if train is None:
        return replace(settings, extended=ends)
    return replace(settings, train=replace(train, extended=ends))


def same_run(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether two trees of settings are of one run. How long it is, and was, may differ."""
    return _without_length(migrate("run", there)) == _without_length(here)


def _without_length(settings: dict[str, Any]) -> dict[str, Any]:
    settings = json.loads(json.dumps(settings))
    for name in ("steps", "extended"):
        _length(settings).pop(name, None)
    return settings


def _length(settings: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's settings that says how long it is."""
    return settings.get("train", settings)


def recipe_of(path: Path) -> tuple[str, dict[str, Any]] | None:
    """The settings of the run in a folder: their hash as it was when it began, and they themselves
    in today's form. None where no run was begun. LociError where they cannot be read."""
    file = path / "config.json"
    if not file.exists():
        return None
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LociError(f"{file} cannot be read ({error}); choose another folder") from error
    return settings_hash(settings), migrate("run", settings)


def put_aside(path: Path, mark: str) -> Path:
    """Rename a run's folder, so that another run can begin there: its new place, with `mark` in
    its name."""
    aside, number = path.with_name(f"{path.name}.{mark}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{mark}-{number}")
    return path.rename(aside)


def _unsound(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
