"""The episodes of one policy at one task: those that are kept, and those that are played now.

    episodes.jsonl    the key of everything that they depend on, then a line an episode
    made.json         the code and the machines that they were played with
    videos/           films of some
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from loci.errors import LociError
from loci.io.files import atomic_write
from loci.io.json_files import read_json, to_json
from loci.io.pictures import write_video
from loci.io.progress import Progress
from loci.models.world_action import WorldActionConfig
from loci.study.entry import Entry
from loci.study.provenance import made_with
from loci.study.store import Log, Record, Store
from loci.study.tabletop.closed_loop import Loop, play
from loci.training.numerics import device_of
from loci.worlds.film import FILM_FPS
from loci.worlds.tabletop.embodiment import embodiment
from loci.worlds.tabletop.env import ACTION, Tabletop
from loci.worlds.tabletop.tasks.base import Task

# Raise it whenever an episode changes its meaning: those of another version are played again.
VERSION = 1


@dataclass(frozen=True)
class Episodes:
    """The first `cases` episodes of an entry at a task, in the folder `place` of a store.

    key: what they depend on. before: see `Store.log`.
    """

    entry: Entry
    task: Task
    loop: Loop
    cases: int
    place: str
    key: Mapping[str, Any]
    before: Callable[[Record], bool] = lambda line: False

    @property
    def name(self) -> str:
        return f"{self.entry.name}, cue held {self.task.hold} times"

    def log(self, store: Store) -> Log:
        return store.log(self.place, self.key, self.before)

    def missing(self, store: Store) -> list[int]:
        """The episodes that are not played yet."""
        done = {line["episode"] for line in self.log(store).lines}
        return [episode for episode in range(self.cases) if episode not in done]

    def played(self, store: Store, progress: Progress) -> list[Record]:
        """A line for each episode; those that are missing are played now.

        Raises LociError where some are missing and the weights are gone, and for a model that does
        not fit the table.
        """
        log, left = self.log(store), self.missing(store)
        if left and self.entry.load is None:
            raise LociError(
                f"{len(left)} of {self.cases} episodes of {self.name}, are missing, and its "
                f"weights are gone; delete {self.entry.folder} to train it again, or give the "
                "--cases and --seed that it was played with"
            )
        progress.advance(self.cases - len(left), self.name)
        if left:
            fits(self.entry.name, self.entry.config)
            log.begin()
            self._note(log)
        model = self.entry.model if left else None
        for start in range(0, len(left), self.loop.together):
            some = left[start : start + self.loop.together]
            for line in play(model, lambda: Tabletop(self.task), self.loop, some):
                film = line.pop("film", None)
                if film is not None:
                    video = log.folder / "videos" / f"{line['episode']:03d}.mp4"
                    write_video(video, film, fps=FILM_FPS, magnify=1)
                log.append(line)
                hits = sum(one["success"] for one in log.lines)
                progress.advance(1, f"{self.name}: {hits} of {len(log.lines)} succeeded")
        first = [line for line in log.lines if line["episode"] < self.cases]
        return sorted(first, key=lambda line: line["episode"])

    def made(self, store: Store) -> list[dict[str, Any]]:
        """With what the episodes were played, one for each time that it changed."""
        file = self.log(store).folder / "made.json"
        return read_json(file, f"delete {file.parent}") if file.exists() else []

    def _note(self, log: Log) -> None:
        """Keep with what the next episodes are played."""
        device, file = device_of(self.entry.model), log.folder / "made.json"
        now = made_with(device, torch.get_float32_matmul_precision())
        before = read_json(file, f"delete {log.folder}") if file.exists() else []
        if before[-1:] != [now]:
            atomic_write(file, to_json([*before, now]))


def cameras_of(entry: Entry) -> list[str]:
    """The cameras that a policy sees by."""
    embodiment = entry.config.embodiment
    return [] if embodiment is None else list(embodiment.camera_names)


def fits(name: str, config: WorldActionConfig) -> None:
    """LociError for a policy with another robot than the table's."""
    expert = config.expert
    if (expert.actions, expert.proprio) != (ACTION, ACTION):
        raise LociError(
            f"{name} acts with {expert.actions} numbers and feels {expert.proprio}; the "
            f"tabletop has {ACTION} of both"
        )
    if config.embodiment is None:
        raise LociError(f"{name} does not know its robot; set model.embodiment and train it")
    config.embodiment.check_other(embodiment())
