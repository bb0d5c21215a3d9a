"""Runs rows through branches, shares the truth between them, keeps what is finished."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loci.data.episodes import FORMAT as EPISODES
from loci.data.episodes import EpisodeCache
from loci.errors import LociError
from loci.io.files import atomic_write
from loci.io.progress import Progress
from loci.io.user_code import source_files
from loci.study.bench.cost import hold
from loci.study.rooms.baselines import CEILINGS, FLOORS, baseline
from loci.study.rooms.branches import BRANCHES, Branch
from loci.study.rooms.objects import CaseScore
from loci.study.rooms.probe import BLIND, LATENTS, Probe, probe_cases
from loci.study.rooms.recall import causal_scores
from loci.study.rooms.rollouts import MEMORIES, World, rollout
from loci.study.rooms.truth import Truth, prepare

# Raise it whenever a score changes its meaning: finished parts of another version are made again.
VERSION = 3


@dataclass(frozen=True)
class Contender:
    """A row ready to be evaluated; `checkpoint` is the digest of the file it came from, `codec`
    that of its codec.

    finished: the weights are gone, what they scored is kept; the model is an untrained one.
    """

    name: str
    model: World
    config_hash: str
    checkpoint: str
    parameters: int
    codec: str = ""
    finished: bool = False


class Runner:
    """One study's evaluation, in the folder `out`."""

    def __init__(self, contenders: Sequence[Contender], out: Path, cases: int, seed: int):
        _comparable(contenders)
        self.contenders = list(contenders)
        self.out, self.cases, self.seed = out, cases, seed
        self.first = next((c for c in contenders if not c.finished), contenders[0]).model
        self.cache = EpisodeCache(out / "episodes")
        self.prepared: tuple[object, list[Truth]] = (None, [])

    def run(self, branches: Sequence[Branch]) -> dict[str, dict[str, list[CaseScore]]]:
        """branch -> row -> the score of each case; rows in the order of a table."""
        scores: dict[str, dict[str, list[CaseScore]]] = {}
        rows = len(self.contenders)
        work = sum(
            self.cases * (1 + rows + len(FLOORS + CEILINGS) * b.baselines) for b in branches
        )
        with Progress("evaluating", work) as progress:
            for branch in branches:
                scores[branch.name] = self._branch(branch, scores.get("recall", {}), progress)
        return scores

    def _branch(
        self, branch: Branch, recalled: dict[str, list[CaseScore]], progress: Progress
    ) -> dict[str, list[CaseScore]]:
        """All rows of one branch; the truth is prepared only if some row still needs it."""
        ahead = progress.done + self.cases
        names = [c.name for c in self.contenders]
        if branch.baselines:
            names = [*FLOORS, *names, *CEILINGS]
        scores: dict[str, list[CaseScore]] = {}
        for name in names:

            def score(name: str = name) -> list[CaseScore]:
                progress.now(f"{branch.name}: {name}")
                truths = self._truths(branch, progress)
                return self._score(branch, name, truths, recalled.get(name), progress)

            cases = [c.key for c in branch.cases(self.cases, self.seed)]
            scores[name] = self._part(branch.name, name, cases, score)
            progress.advance(ahead + len(scores) * self.cases - progress.done)
        return scores

    def probe(self) -> dict[str, list[CaseScore]]:
        """row -> what it wrote and what it reads out, case by case; the rows of reference too."""
        scores: dict[str, list[CaseScore]] = {}
        found = {c.name: c for c in self.contenders}
        names = [BLIND, LATENTS, *found]
        cases = [c.key for c in probe_cases(self.cases, self.seed)]
        prepared: list[Probe] = []
        with Progress("probing", len(names) * self.cases) as progress:
            for name in names:

                def score(name: str = name) -> list[CaseScore]:
                    progress.now(f"probe: {name}")
                    if not prepared:
                        prepared.append(Probe(self.first, self.cache, self.cases, self.seed))
                    if name not in found:
                        return prepared[0].reference(name)
                    self._still_there(found[name], "probe")
                    return prepared[0].score(found[name].model, progress.advance)

                scores[name] = self._part("probe", name, cases, score)
                progress.advance(len(scores) * self.cases - progress.done)
        return scores

    def _part(
        self, branch: str, name: str, cases: list[str], score: Callable[[], list[CaseScore]]
    ) -> list[CaseScore]:
        """The scores of a row in a branch, as they were kept, or made now and kept."""
        part = self.out / "parts" / f"{branch}.{name}.json.gz"
        key = self._key(branch, name, cases)
        done = _read_part(part, key)
        if done is None:
            done = score()
            text = json.dumps({"key": key, "cases": [s.to_dict() for s in done]}) + "\n"
            packed = gzip.compress(text.encode(), mtime=0)
            atomic_write(part, lambda file: file.write_bytes(packed))
        return done

    def _still_there(self, contender: Contender, branch: str) -> None:
        """LociError where a row's weights are gone."""
        if contender.finished:
            raise LociError(
                f"row '{contender.name}' has no scores of these cases on branch '{branch}', and "
                f"its weights are gone; delete {self.out / 'training' / contender.name} to train "
                "it again"
            )

    def _truths(self, branch: Branch, progress: Progress) -> list[Truth]:
        """The truth of a branch's cases, kept for the next branch that asks for the same."""
        config = self.first.config
        frames = branch.frames(config.chunk)
        wanted = (branch.split, branch.courses, branch.observe, branch.groups, frames)
        if self.prepared[0] != wanted:
            progress.now(f"{branch.name}: truth")
            self.prepared = (wanted, [])
            for case in branch.cases(self.cases, self.seed):
                truth = prepare(
                    case, self.cache, config.camera,
                    observe=branch.observe, frames=frames, groups=branch.groups,
                )
                self.prepared[1].append(truth)
                progress.advance()
        truths = self.prepared[1]
        if branch.shown:
            self._keep(branch, "truth", [t.rgb for t in truths], truths)
        return truths

    def _score(
        self,
        branch: Branch,
        name: str,
        truths: list[Truth],
        recalled: list[CaseScore] | None,
        progress: Progress,
    ) -> list[CaseScore]:
        """One row of one branch."""
        found = [c for c in self.contenders if c.name == name]
        if not found:
            videos = baseline(name, truths, self.first.config.camera, self.first.codec)
            progress.advance(len(truths))
            return [branch.score(t, v) for t, v in zip(truths, videos, strict=True)]
        self._still_there(found[0], branch.name)
        model = found[0].model
        if branch.name != "causal":
            videos = rollout(model, truths, self.seed, advance=progress.advance)
            self._keep(branch, name, videos, truths)
            return [branch.score(t, v) for t, v in zip(truths, videos, strict=True)]
        # With true memory these are the rollouts of the recall branch: same cases, same noise.
        by_memory: dict[str, Sequence[CaseScore]] = {}
        for memory in MEMORIES:
            if memory == MEMORIES[0] and recalled is not None:
                by_memory[memory] = recalled
                continue
            videos = rollout(model, truths, self.seed, memory)
            by_memory[memory] = [branch.score(t, v) for t, v in zip(truths, videos, strict=True)]
        progress.advance(len(truths))
        return causal_scores(by_memory)

    def _keep(
        self, branch: Branch, name: str, videos: list[np.ndarray], truths: list[Truth]
    ) -> None:
        """The frames of the cases that the report shows, for `loci.report.panels`."""
        for number in range(min(branch.shown, len(truths))):
            truth = truths[number]
            folder = self.out / "rollouts" / branch.name / f"{number}-{truth.case.course.name}"
            arrays = {"video": videos[number]}
            if name == "truth":
                arrays |= {
                    "case": np.array(truth.case.key), "observed": np.array(truth.observed),
                    "out": np.array(truth.out), "away": np.array(_farthest(truth)),
                }
            atomic_write(folder / f"{name}.npz", lambda file, a=arrays: _write_npz(file, a))

    def cost(self) -> tuple[dict[str, dict[str, int]], dict[str, float]]:
        """What each row holds at 40 frames, and the milliseconds a chunk takes on this machine."""
        return hold({contender.name: contender.model for contender in self.contenders})

    def _key(self, branch: str, name: str, cases: list[str]) -> str:
        """A digest of everything that the scores of (branch, row) depend on."""
        found = [c for c in self.contenders if c.name == name]
        config = self.first.config
        # Baselines know no row, but the ceiling of the codec is that of the rows' codec.
        made_by = [
            [c.config_hash, c.checkpoint, *source_files(c.model.config.memory).get("files", [])]
            for c in found
        ] or self.contenders[0].codec
        what = {
            "version": VERSION, "episodes": EPISODES, "branch": branch, "row": name,
            "makers": made_by, "seed": self.seed, "cases": cases,
            "steps": config.steps, "chunk": config.chunk,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _farthest(truth: Truth) -> int:
    """The frame of the way out whose pose differs most from the first: amid a full turn."""
    return int(np.abs(truth.poses[: truth.out] - truth.poses[0]).sum(axis=(1, 2)).argmax())


def _comparable(contenders: Sequence[Contender]) -> None:
    if not contenders:
        raise LociError("a study needs a row; name one or more")
    first = contenders[0]
    for other in contenders[1:]:
        for what, a, b in (
            ("camera", first.model.config.camera, other.model.config.camera),
            ("chunk", first.model.config.chunk, other.model.config.chunk),
            ("steps", first.model.config.steps, other.model.config.steps),
            ("latent shape", first.model.latent_shape, other.model.latent_shape),
            ("codec", first.codec, other.codec),
        ):
            if a != b:
                raise LociError(
                    f"rows '{first.name}' and '{other.name}' differ in {what} ({a}, {b}); "
                    "a study compares memory alone"
                )


def _read_part(file: Path, key: str) -> list[CaseScore] | None:
    """The scores in `file` if they are those asked for."""
    if not file.exists():
        return None
    try:
        data = json.loads(gzip.decompress(file.read_bytes()))
        if data["key"] != key:
            return None
        return [CaseScore.from_dict(case) for case in data["cases"]]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise LociError(f"{file} is damaged ({error}); delete it, it is made again") from error


def _write_npz(file: Path, arrays: dict[str, np.ndarray]) -> None:
    with file.open("wb") as handle:
        np.savez_compressed(handle, **arrays)


__all__ = ["BRANCHES", "Contender", "Runner"]
