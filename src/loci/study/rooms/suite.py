"""World models in rooms: every row on the same cases, with the same noise.

    cases.json    what every row scored on every case, object by object
    parts/        finished (branch, row) pairs; cost/: what rows hold
    rollouts/     frames of the cases that a report shows
    episodes/     the rendered truth
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loci.data.episodes import FORMAT as EPISODES
from loci.data.episodes import EpisodeCache
from loci.data.truth import Truth, prepare
from loci.errors import LociError
from loci.geometry.imperfect import IMPERFECT
from loci.io.files import atomic_write
from loci.io.progress import Progress
from loci.recipes.registry import FLATS, PREFIXES
from loci.study.bench.cost import costs, hold
from loci.study.entry import Entry, Variant
from loci.study.provenance import BOOTSTRAP
from loci.study.rooms import results as tables
from loci.study.rooms.baselines import CEILINGS, FLOORS, baseline
from loci.study.rooms.branches import BRANCHES, STILL, Branch
from loci.study.rooms.objects import CaseScore, tallies
from loci.study.rooms.probe import BLIND, LATENTS, Probe, probe_cases
from loci.study.rooms.renders import KNOWN, RENDERS, SHOWN, known_pixels, render
from loci.study.rooms.retention import retention
from loci.study.rooms.rollouts import MEMORIES, pool, rollout
from loci.study.rooms.scores import causal_scores
from loci.study.store import Store, key_of
from loci.study.suite import Scores, Suite, counted

# Raise it whenever a score changes its meaning: finished parts of another version are made again.
VERSION = 3
PROBE = "probe"
NOISE = "sha256 of (seed, 'noise', case, chunk); the same for every row"
# About how long two cores take for a case of a branch and of a row, seconds.
SECONDS = 0.25
# Cases that a branch may have: the frames of all of them are in memory together.
MOST = 2000


class Rooms(Suite):
    """The branches of a study of rooms.

    cases: rooms a branch. seed: picks the held-out rooms. probes: whether what rows write is asked
    as well. rows: those whose entries are to be found or trained, and admitted, before it is
    played. renders: whether what maps show without a model is a row of reference too. Entries must
    agree on everything but memory, or the noise would not be the same.
    """

    def __init__(
        self, name: str, cases: int = 64, seed: int = 0, entries: Sequence[Entry] = (),
        branches: Sequence[str] = STILL, probes: bool = False, rows: Sequence[str] = (),
        trains: bool = True, renders: bool = False,
    ):
        counted(cases, seed, MOST)
        self.name, self.cases, self.seed, self.asked = name, cases, seed, rows
        self.trains, self.renders = trains, tuple(RENDERS) if renders else ()
        # A row that names more than a memory is a recipe itself.
        self.variants = [
            Variant(row, row if row.startswith(PREFIXES) else f"rooms-{row}", row) for row in rows
        ]
        self.conditions = (*branches, *([PROBE] if probes else []))
        self._prepared: tuple[object, list[Truth]] = (None, [])
        self._probe: Probe | None = None
        self._recalled: dict[str, list[CaseScore]] = {}
        self.entries: dict[str, Entry] = {}
        self._gone: set[tuple[str, str]] = set()
        if entries:
            self.admit({entry.name: entry for entry in entries})

    def admit(self, entries: Mapping[str, Entry], store: Store | None = None) -> None:
        first, *others = entries.values()
        for other in others:
            for what in ("camera", "chunk", "steps", "codec", "weights of the codec"):
                a, b = (
                    e.note.get("codec") if " " in what else getattr(e.config, what, None)
                    for e in (first, other)
                )
                if a != b:
                    raise LociError(
                        f"rows '{first.name}' and '{other.name}' differ in {what} ({a}, {b}); "
                        "a study compares memory alone"
                    )
        self.entries, self.config = dict(entries), first.config
        # Weights that are gone leave what they scored: such a row has no cell elsewhere.
        self._gone = set()
        for name, entry in entries.items():
            kept = [
                condition for condition in self.conditions if store is not None
                and store.has(_place(condition, name), self._key(condition, name), "cases")
            ]
            if entry.load is None and kept:
                self._gone |= {(c, name) for c in self.conditions if c not in kept}

    @property
    def work(self) -> int:
        return self.cases * sum(len(self.rows(name)) for name in self.conditions)

    def rows(self, condition: str) -> list[str]:
        """The rows under a condition, those of reference included, in the order of a table."""
        if condition == PROBE:
            return [BLIND, LATENTS, *self.entries]
        branch = BRANCHES[condition]
        floors = [*FLOORS, *(self.renders if branch.observe == "out" else ())] * branch.baselines
        entries = [
            name for name in self.entries
            if name.startswith(FLATS) == (branch.world == "flats")
            and (condition, name) not in self._gone
        ]
        # A world in which nothing was trained is not played.
        played = bool(entries) or not self.entries
        return [*floors, *entries, *CEILINGS * branch.baselines] if played else []

    def keys(self, condition: str) -> list[str]:
        """The names of the cases."""
        if condition == PROBE:
            return [case.key for case in probe_cases(self.cases, self.seed)]
        return [case.key for case in BRANCHES[condition].cases(self.cases, self.seed)]

    def seconds(self, store: Store) -> float:
        missing = len(self.conditions) * len(set(self.asked) - set(self.entries))
        if self.entries:
            missing += sum(
                not store.has(_place(condition, row), self._key(condition, row), "cases")
                for condition in self.conditions for row in self.rows(condition)
            )
        return SECONDS * self.cases * missing

    def play(self, condition: str, store: Store, progress: Progress) -> dict[str, list[CaseScore]]:
        scores: dict[str, list[CaseScore]] = {}
        for row in self.rows(condition):
            ahead = progress.done + self.cases
            progress.now(f"{condition}: {row}")

            def make(row: str = row) -> list[dict[str, Any]]:
                return [s.to_dict() for s in self._score(condition, row, store, progress)]

            key = self._key(condition, row)
            kept = store.value(_place(condition, row), key, make, "cases")
            scores[row] = [CaseScore.from_dict(case) for case in kept]
            progress.advance(ahead - progress.done)
        if condition == "recall":
            self._recalled = scores
        return scores

    def _score(
        self, condition: str, row: str, store: Store, progress: Progress
    ) -> list[CaseScore]:
        """The scores of a row, made now."""
        if condition == PROBE:
            return self._probed(row, store, progress)
        branch, entry = BRANCHES[condition], self.entries.get(row)
        if entry is not None and entry.load is None:
            raise LociError(
                f"row '{row}' has no scores of these cases on branch '{condition}', and its "
                f"weights are gone; delete {entry.folder} to train it again"
            )
        truths = self._truths(branch, store, progress)
        if row in RENDERS:
            return self._rendered(branch, row, truths, store.out)
        if entry is None:
            videos = baseline(row, truths, self.config.camera, self._first.codec)
        elif condition == "causal":
            return self._causal(row, truths)
        else:
            videos = rollout(entry.model, truths, self.seed, advance=progress.advance)
            _keep(branch, row, videos, truths, self.seed, store.out)
        return [branch.score(t, v) for t, v in zip(truths, videos, strict=True)]

    def _rendered(
        self, branch: Branch, row: str, truths: list[Truth], out: Path
    ) -> list[CaseScore]:
        """The scores of what a map shows, and how much of it is covered."""
        with pool(torch.device("cpu")) as threads:
            found = list(threads.map(partial(render, row), truths))
        if row == SHOWN:
            _keep(branch, row, [video for video, _ in found], truths, self.seed, out)
            shown = [known_pixels(t, known) for t, (_, known) in zip(truths, found, strict=True)]
            _keep(branch, KNOWN, shown, truths, self.seed, out)
        scores = [branch.score(t, video) for t, (video, _) in zip(truths, found, strict=True)]
        return [
            CaseScore(score.metrics | tallies(covered=float(known.mean())), score.objects)
            for score, (_, known) in zip(scores, found, strict=True)
        ]

    def _causal(self, row: str, truths: list[Truth]) -> list[CaseScore]:
        """The scores with each memory. With the true one they are those of the recall branch: same
        cases, same noise."""
        branch, by_memory = BRANCHES["causal"], {}
        for memory in MEMORIES:
            if memory == MEMORIES[0] and row in self._recalled:
                by_memory[memory] = self._recalled[row]
                continue
            videos = rollout(self.entries[row].model, truths, self.seed, memory)
            by_memory[memory] = [branch.score(t, v) for t, v in zip(truths, videos, strict=True)]
        return causal_scores(by_memory)

    def _probed(self, row: str, store: Store, progress: Progress) -> list[CaseScore]:
        """What a row, or one of reference, wrote and what it reads out."""
        if self._probe is None:
            self._probe = Probe(self._first, self._cache(store), self.cases, self.seed)
        if row in (BLIND, LATENTS):
            return self._probe.reference(row)
        return self._probe.score(self.entries[row].model, progress.advance)

    def _cache(self, store: Store) -> EpisodeCache:
        return EpisodeCache(store.out / "episodes")

    @cached_property
    def _first(self) -> Any:
        """A model whose codec is that of all rows."""
        return next((e for e in self.entries.values() if e.load), self._any).measured

    @property
    def _any(self) -> Entry:
        return next(iter(self.entries.values()))

    def _truths(self, branch: Branch, store: Store, progress: Progress) -> list[Truth]:
        """The truth of a branch's cases, for all rows and for the next branch with the same ones.
        """
        frames = branch.frames(self.config.chunk)
        wanted = (
            branch.split, branch.courses, branch.observe, branch.groups, frames, branch.geometry
        )
        if self._prepared[0] != wanted:
            progress.now(f"{branch.name}: truth")
            truths = [
                prepare(
                    case, self._cache(store), self.config.camera,
                    observe=branch.observe, frames=frames, groups=branch.groups,
                    geometry=IMPERFECT[branch.geometry] if branch.geometry else None,
                )
                for case in branch.cases(self.cases, self.seed)
            ]
            self._prepared = (wanted, truths)
            _keep(branch, "truth", [t.rgb for t in truths], truths, self.seed, store.out)
        return self._prepared[1]

    def _key(self, condition: str, row: str) -> str:
        """The key of all that the scores of a row depend on. The digest of a checkpoint's file is
        that of its weights and of its recipe, which it names."""
        # Baselines know no row, but the ceiling of the codec is that of the rows' codec.
        made_by: Any = self._any.note.get("codec", "")
        if row in self.entries:
            note = self.entries[row].note
            made_by = [[note["config"], note["checkpoint"], *note.get("files", [])]]
        return key_of({
            "version": VERSION, "episodes": EPISODES, "branch": condition, "row": row,
            "makers": made_by, "seed": self.seed, "cases": self.keys(condition),
            "steps": self.config.steps, "chunk": self.config.chunk,
        })

    def results(self, scores: Scores, store: Store) -> dict[str, Any]:
        cost = costs(self.entries, store, hold)
        probe = {PROBE: scores[PROBE]} if PROBE in scores else {}
        branches = {name: found for name, found in scores.items() if name != PROBE}
        rows, names = tables.aggregate(branches), list(self.entries)
        milliseconds = {name: found["milliseconds"] for name, found in cost.items()}
        return {
            "protocol": self._protocol(list(branches), milliseconds) | self._played(store),
            "rows": rows,
            "rankings": tables.rankings(rows, names),
            "gains": tables.gains(branches, names),
            "retention": retention(branches.get("recall", {})),
            "probe": {row: found[PROBE] for row, found in tables.aggregate(probe).items()},
            "cost": {name: found["held"] for name, found in cost.items()},
        }

    def _protocol(
        self, branches: Sequence[str], milliseconds: Mapping[str, float]
    ) -> dict[str, Any]:
        floor = [tables.FLOOR] if tables.FLOOR in self.entries else []
        probes = PROBE in self.conditions
        return {
            "study": self.name, "case_count": self.cases, "seed": self.seed,
            "cases": {branch: self.keys(branch) for branch in branches},
            "rows": {name: entry.record for name, entry in self.entries.items()},
            "floors": [*FLOORS, *self.renders, *floor, *([BLIND] if probes else [])],
            "ceilings": [*CEILINGS, *([LATENTS] if probes else [])],
            "chunk": self.config.chunk, "steps": self.config.steps,
            "camera": self.config.camera.to_dict(), "noise": NOISE,
            "interval": {
                "method": "percentile bootstrap over cases (Wilson where all trials agree)",
                **BOOTSTRAP,
            },
            "command": f"loci study {self.name} --cases {self.cases} --seed {self.seed} "
            f"--rows {','.join(self.entries)}",
            "wall": {"milliseconds_per_chunk": milliseconds},
        }

    def _played(self, store: Store) -> dict[str, Any]:
        """With what the entries were played, where their pieces say so; the protocol's own commit
        and machine are those that wrote the results."""
        found: dict[str, list[dict[str, Any]]] = {}
        for name in self.entries:
            for condition in self.conditions:
                place, key = _place(condition, name), self._key(condition, name)
                made = store.made_with(place, key, "cases")
                if made is not None and made not in found.setdefault(name, []):
                    found[name].append(made)
        return {"played_with": found} if found else {}

    def files(self, scores: Scores) -> dict[str, Any]:
        """cases.json: branch -> row -> case -> its metrics as [total, count] and its objects."""
        return {"cases.json": {
            branch: {
                row: {k: s.to_dict() for k, s in zip(self.keys(branch), cases, strict=True)}
                for row, cases in rows.items()
            }
            for branch, rows in scores.items() if branch != PROBE
        }}


def _place(condition: str, row: str) -> str:
    return f"parts/{condition}.{row}.json.gz"


def _keep(
    branch: Branch, name: str, videos: list[np.ndarray], truths: list[Truth], seed: int, out: Path
) -> None:
    """Write the frames of the cases that a report shows."""
    for number, truth in enumerate(truths[: branch.shown]):
        arrays: dict[str, Any] = {"video": videos[number]}
        if name == "truth":
            arrays |= {"case": truth.case.key, "observed": truth.observed, "out": truth.out,
                       "away": truth.away}
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)
        case = f"{number}-{truth.case.course.name}" + f"-seed{seed}" * (seed > 0)
        atomic_write(out / "rollouts" / branch.name / case / f"{name}.npz", packed.getvalue())
