"""The folder of a training run: its settings, its log, its state.

    config.json         the settings that the run was started with
    train.jsonl         the protocol, then one line every few steps
    state.safetensors   everything needed to go on: weights, optimizer, average, step
    model.safetensors   the result, written by the recipe at the end
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from loci.config import Config
from loci.errors import LociError
from loci.io.files import atomic_write


class RunFolder:
    """One run's folder. Make it with `open`."""

    def __init__(self, path: Path, settings: Config):
        self.path = path
        self.settings = settings
        self.log_path = path / "train.jsonl"
        self.state_path = path / "state.safetensors"

    @classmethod
    def open(cls, path: str | Path, settings: Config, resume: bool = False) -> Self:
        """Claim a folder for a run with `settings`, or take up the run that it holds.

        Raises LociError where a run is there and `resume` was not asked for, or where its settings
        are others. With `resume` an empty folder starts a run: a run may be killed that early.
        """
        folder = cls(Path(path), settings)
        file = folder.path / "config.json"
        if not file.exists():
            atomic_write(file, settings.to_json() + "\n")
            return folder
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LociError(f"{file} cannot be read ({error}); choose another folder") from error
        here = json.loads(settings.to_json())
        if there != here:
            raise LociError(
                f"{path} holds a run with other settings ({_difference(there, here)}); "
                "repeat its options or choose another folder"
            )
        if not resume:
            raise LociError(
                f"{path} already holds this run; continue it with --resume "
                "or choose another folder"
            )
        # A kill in the middle of a write leaves the unfinished temporary file: ours, or the one
        # that the safetensors library writes first.
        for pattern in (".*-*.safetensors", ".tmp??????"):
            for stale in folder.path.glob(pattern):
                stale.unlink()
        return folder

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


def _unsound(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _difference(there: Any, here: Any, where: str = "") -> str:
    """The first setting in which two trees differ, and both its values."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key):
                return _difference(there.get(key), here.get(key), f"{where}.{key}".lstrip("."))
    return f"{where or 'all'}: {there!r} there, {here!r} now"
