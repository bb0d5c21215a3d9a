"""What is stored, against what is read out.

A linear probe on the frozen memory: rooms are seen along the way out of `PROBED`, and the state
that a stream then holds, as it lies, is asked about every object that has left the view:

- *there*: does one stand in this direction? The share of pairs of directions of a room, one with
  an object and one without, that the probe puts in order. Guessing gives 1/2.
- *which*: the true one among the eight candidates of the identity metric. Guessing gives 1/8.
- *where*: how many degrees its bearing is missed by.
- *turn*: how many degrees its turn about the vertical is missed by.

Directions are counted in sixteenths of a circle around the first camera, with a probe for each.
Generation on the same cases is the other half, scored as in the recall branch. A row that answers
the probe and not the camera writes what it cannot read.

Ridge regression in its dual form: whatever the size of a state, the inner products of the states of
the rooms that it is fitted on are all it takes. Its strength is chosen by leaving one out. Two rows
of reference: `blind` knows no state and answers the mean, `latents` holds every latent that was
seen. Source: linear probes as Alain and Bengio (arXiv 1610.01644); questions and protocol ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loci.data.episodes import EpisodeCache
from loci.evaluation.cases import LOOP180, Case, make_cases
from loci.evaluation.objects import CaseScore
from loci.evaluation.recall import score_recall
from loci.evaluation.rollouts import BATCH, World, rollout
from loci.evaluation.statistics import Tally
from loci.evaluation.truth import Truth, group_of, prepare
from loci.types import Camera
from loci.worlds.paths import make_path
from loci.worlds.rooms import Object, Room, candidates, sample_room
from loci.worlds.shapes import SPLIT_COLORS, SPLIT_SHAPES

# Rooms that a probe is fitted on: so many for each case that it is asked about, this many or more.
PER_CASE, LEAST = 12, 96
BINS = 16
# Train rooms that no recipe trains on.
FIRST_ROOM = 1_000_000
PROBED = LOOP180
# Ridge strengths, in units of the mean variance along a direction of the states.
STRENGTHS = 10.0 ** np.arange(-4.0, 4.5, 0.5)
# What a snapshot holds beside the memory: it would tell nothing, or what is no memory.
ASIDE = ("reference", "poses", "text.")
READ = ("identity_later", "identity_first", "psnr_seen")
BLIND, LATENTS = "blind", "latents"


@dataclass(frozen=True)
class Asked:
    """An object that is asked about: its bearing and its turn in radians, as the first camera has
    them, and the direction (0 to BINS - 1) that the bearing falls in."""

    index: int
    group: str
    thing: Object
    bearing: float
    turn: float

    @property
    def direction(self) -> int:
        return int(np.floor(self.bearing / (2 * np.pi) * BINS)) % BINS


@dataclass(frozen=True, eq=False)
class Rooms:
    """Rooms seen along the way out: frames uint8 (R, T, H, W, 3), poses (R, T, 4, 4), and what is
    asked about each."""

    frames: np.ndarray
    poses: np.ndarray
    asked: list[list[Asked]]


class Probe:
    """The cases of one probe, prepared once for all rows; `score` answers for a model.

    cases: held-out rooms that a probe is asked about, of the study's `seed`; it is fitted on
    PER_CASE times as many train rooms. Raises LociError for too few.
    """

    def __init__(self, camera: Camera, cache: EpisodeCache, cases: int, seed: int):
        self.cases, self.seed = probe_cases(cases, seed), seed
        self.truths = [prepare(case, cache, camera) for case in self.cases]
        self.rooms = max(PER_CASE * cases, LEAST)
        self.fitted = _seen(self.rooms, camera)
        self.asked = [_asked_of(truth) for truth in self.truths]

    def score(
        self, model: World, advance: Callable[[int], None] = lambda cases: None
    ) -> list[CaseScore]:
        """What `model` wrote and what it reads out, case by case."""
        written = self.written(self.states(model))
        videos = rollout(model, self.truths, self.seed, advance=advance)
        read = [score_recall(t, v).metrics for t, v in zip(self.truths, videos, strict=True)]
        return [
            CaseScore(w | {name: r[name] for name in READ})
            for w, r in zip(written, read, strict=True)
        ]

    def reference(self, name: str, model: World) -> list[CaseScore]:
        """`blind` or `latents`, of the codec of `model`."""
        states: dict[str, Tensor] = {}
        if name == LATENTS:
            states = self._over(model, lambda latents, poses: {"latents": latents})
        return [CaseScore(metrics) for metrics in self.written(states)]

    def states(self, model: World) -> dict[str, Tensor]:
        """What streams hold after the way out, {name: (fitted rooms + cases, numbers)}."""

        def write(latents: Tensor, poses: Tensor) -> dict[str, Tensor]:
            session = model.session(len(latents))
            session.write(latents, poses)
            return session.snapshot()

        return self._over(model, write)

    def written(self, states: Mapping[str, Tensor]) -> list[dict[str, Tally]]:
        """The answers of linear probes on `states`, case by case."""
        kernel = products(states, self.rooms, self.rooms + len(self.cases))
        kernel, unseen = kernel[: self.rooms], kernel[self.rooms :]
        metrics: list[dict[str, Tally]] = [{} for _ in self.cases]
        table = np.zeros((self.rooms, BINS))
        for room, things in enumerate(self.fitted.asked):
            for asked in things:
                table[room, asked.direction] = 1
        there = ridge(kernel, unseen, table)
        for case, things in enumerate(self.asked):
            full = sorted({a.direction for a in things})
            empty = np.setdiff1d(np.arange(BINS), full)
            ahead = there[case, full][:, None] - there[case, empty]
            hits = float((ahead > 0).sum() + 0.5 * (ahead == 0).sum())
            metrics[case]["there"] = Tally(hits, ahead.size)
            for group in ("first", "later"):
                metrics[case][f"which_{group}"] = Tally(0.0, 0)
            metrics[case]["where"] = metrics[case]["turn"] = Tally(0.0, 0)
        for direction in range(BINS):
            self._ask(direction, kernel, unseen, metrics)
        return metrics

    def _ask(
        self, direction: int, kernel: np.ndarray, unseen: np.ndarray,
        metrics: list[dict[str, Tally]],
    ) -> None:
        """Add the answers about all objects in one direction to `metrics`: of those that some
        fitted room has an object in."""
        known = _towards(self.fitted.asked, direction)
        asked = _towards(self.asked, direction)
        if not asked or not known:
            return
        rows, cases = [room for room, _ in known], [case for case, _ in asked]
        inner, outer = kernel[np.ix_(rows, rows)], unseen[np.ix_(cases, rows)]
        shapes, colors = list(SPLIT_SHAPES["train"]), list(SPLIT_COLORS["train"])
        shape = ridge(inner, outer, _one_hot([a.thing.shape for _, a in known], shapes))
        color = ridge(inner, outer, _one_hot([a.thing.color for _, a in known], colors))
        where = ridge(inner, outer, np.array([[_offset(a)] for _, a in known]))[:, 0]
        turn = ridge(inner, outer, np.array([[a.turn] for _, a in known]))[:, 0]
        for number, (case, a) in enumerate(asked):
            truth, found = self.truths[case], metrics[case]
            room = sample_room(truth.case.seed, truth.case.split)
            scores = [
                shape[number, shapes.index(c.shape)] + color[number, colors.index(c.color)]
                for c in candidates(room, a.index)
            ]
            # Equal scores are a guess among equals.
            best = np.isclose(scores, max(scores))
            _add(found, f"which_{a.group}", float(best[0] / best.sum()))
            _add(found, "where", float(np.degrees(abs(where[number] - _offset(a)))))
            _add(found, "turn", float(np.degrees(abs(turn[number] - a.turn))))

    def _over(
        self, model: World, hold: Callable[[Tensor, Tensor], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What `hold` makes of latents and poses, for the fitted rooms and then the cases."""
        observed = self.truths[0].observed
        frames = [self.fitted.frames, np.stack([t.rgb[:observed] for t in self.truths])]
        poses = [self.fitted.poses, np.stack([t.poses[:observed] for t in self.truths])]
        device = next((p.device for p in model.parameters()), torch.device("cpu"))

        @torch.inference_mode()
        def one(images: np.ndarray, places: np.ndarray) -> dict[str, Tensor]:
            latents = model.codec.encode(torch.from_numpy(images).to(device))
            held = hold(latents, torch.from_numpy(places))
            return {
                name: value.flatten(1).float().cpu() for name, value in held.items()
                if value.is_floating_point() and not name.startswith(ASIDE)
            }

        work = [
            (images[i : i + BATCH], places[i : i + BATCH])
            for images, places in zip(frames, poses, strict=True)
            for i in range(0, len(images), BATCH)
        ]
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pieces = list(pool.map(lambda item: one(*item), work))
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def probe_cases(count: int, study_seed: int) -> tuple[Case, ...]:
    """The held-out rooms that a probe is asked about."""
    return make_cases("heldout", (PROBED,), count, study_seed)


def products(states: Mapping[str, Tensor], fitted: int, count: int) -> np.ndarray:
    """Inner products (count, fitted) of states with the first `fitted` ones, around their mean.

    Each tensor {name: (count, numbers)} counts alike: its variances sum to one.
    """
    total = torch.zeros(count, fitted, dtype=torch.float64)
    for values in states.values():
        centred = values - values[:fitted].mean(dim=0)
        spread = float(centred[:fitted].square().mean(dim=0).sum())
        if spread > 0:
            total += (centred @ centred[:fitted].mT).double() / spread
    return total.numpy()


def ridge(kernel: np.ndarray, unseen: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Ridge regression from inner products: predictions (n, q).

    kernel (m, m) of the fitted states, unseen (n, m) of the others with them, targets (m, q). Of
    STRENGTHS, the one that predicts each target best from all others is taken (Hastie et al., The
    Elements of Statistical Learning, Section 7.10).
    """
    mean, rows = targets.mean(axis=0), kernel.mean(axis=0)
    inner = kernel - rows - rows[:, None] + rows.mean()
    outer = unseen - rows - unseen.mean(axis=1, keepdims=True) + rows.mean()
    values, vectors = np.linalg.eigh(inner)
    values = values.clip(min=0)
    if values.sum() <= 0:
        return np.broadcast_to(mean, (len(unseen), len(mean)))
    rotated, best = vectors.T @ (targets - mean), (np.inf, 0.0)
    for strength in STRENGTHS * values.mean():
        shrink = values / (values + strength)
        left = targets - mean - vectors @ (shrink[:, None] * rotated)
        weight = 1 - 1 / len(targets) - np.square(vectors) @ shrink
        error = float(np.square(left / weight.clip(min=1e-9)[:, None]).sum())
        best = min(best, (error, float(strength)))
    return mean + outer @ vectors @ (rotated / (values + best[1])[:, None])


def _seen(rooms: int, camera: Camera) -> Rooms:
    """The rooms that a probe is fitted on."""
    frames, poses, asked = [], [], []
    for seed in range(FIRST_ROOM, FIRST_ROOM + rooms):
        room = sample_room(seed, "train")
        path = make_path(PROBED.path, room.start, seed, room)
        views = room.render(path.poses[: path.out], camera)
        areas = [(views.identity == i).sum(axis=(1, 2)) for i in range(len(room.objects))]
        groups = [group_of(area, path.out) for area in areas]
        frames.append(views.rgb)
        poses.append(path.poses[: path.out])
        asked.append([_asked(room, i, group) for i, group in enumerate(groups) if group])
    return Rooms(np.stack(frames), np.stack(poses), asked)


def _asked_of(truth: Truth) -> list[Asked]:
    room = sample_room(truth.case.seed, truth.case.split)
    return [_asked(room, r.index, r.group) for r in truth.returns]


def _asked(room: Room, index: int, group: str) -> Asked:
    thing = room.places[index]
    x, _, z = (np.linalg.inv(room.start) @ [*thing.position, 1.0])[:3]
    bearing = float(np.arctan2(x, z))
    facing = float(np.arctan2(room.start[0, 2], room.start[2, 2])) + bearing
    # Things face the camera, give or take: what is asked is how far they do not.
    turn = (thing.yaw - facing + np.pi) % (2 * np.pi) - np.pi
    return Asked(index, group, thing, bearing, float(turn))


def _offset(asked: Asked) -> float:
    """How far a bearing lies from where its direction begins."""
    return asked.bearing % (2 * np.pi) - asked.direction * 2 * np.pi / BINS


def _towards(asked: Sequence[Sequence[Asked]], direction: int) -> list[tuple[int, Asked]]:
    return [(n, a) for n, things in enumerate(asked) for a in things if a.direction == direction]


def _one_hot(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    return np.array([[float(name == k) for k in known] for name in names])


def _add(metrics: dict[str, Tally], name: str, value: float) -> None:
    metrics[name] = Tally(metrics[name].total + value, metrics[name].count + 1)
