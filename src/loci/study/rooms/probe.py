"""What is stored, against what is read out.

A linear probe on the frozen memory. A held-out room is furnished again and again: at each place
stands one of the eight candidates of the identity metric, or nothing, turned and moved a little.
Every variant is seen along the way out of `PROBED`; the state that a stream then holds, as it lies,
is asked about each place that has left the view by then:

- *there*: does an object stand there? The share of pairs of variants, one with and one without,
  that the probe puts in order. Guessing gives 1/2.
- *which* of the eight is it? Guessing gives 1/8.
- *where*: by how many degrees its direction is missed.
- *turn*: by how many degrees its turn about the vertical is missed.

Generation from the room as it is, along the same path, is the other half, scored as in the recall
branch. A row that answers the probe and not the camera writes what it cannot read.

Walls and path of a room stay, so that few variants suffice to fit its probe; the other objects are
what it must tell apart. Ridge regression in its dual form: whatever the size of a state, the inner
products of states are all it takes. Its strength is chosen by leaving one out. Two rows of
reference: the probe on no state, `blind`, answers the mean; `latents` holds every latent that was
seen.
Source: linear probes as Alain and Bengio (arXiv 1610.01644); questions and protocol ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from loci.data.cases import Case, make_cases
from loci.data.episodes import EpisodeCache
from loci.data.truth import Truth, prepare
from loci.errors import LociError
from loci.models.world import WorldModel
from loci.study.estimates import Tally
from loci.study.rooms.objects import CaseScore
from loci.study.rooms.rollouts import BATCH, pool, rollout
from loci.study.rooms.scores import score_recall
from loci.training.numerics import device_of
from loci.training.ridge import products, ridge
from loci.worlds.rooms.courses import LOOP180
from loci.worlds.rooms.furnish import Thing, furnish
from loci.worlds.rooms.room import CANDIDATES, Room, candidates, room_rng, sample_room

PROBED = LOOP180
# Every so many cases, one room is probed: in FITTED variants to fit, in ASKED to be asked about.
EVERY, FITTED, ASKED = 4, 64, 32
# What a snapshot holds beside the memory: it would tell nothing, or what is no memory.
ASIDE = ("reference", "poses", "text.")
WRITTEN = ("there", "which_first", "which_later", "where", "turn")
READ = ("identity_later", "identity_first", "psnr_seen")
BLIND, LATENTS = "blind", "latents"


@dataclass(frozen=True, eq=False)
class Variants:
    """One room, furnished V times: latents (V, T, C, h, w) of the way out at poses (T, 4, 4), the
    things at all places of each, and the places (with their group) that are asked about."""

    room: Room
    latents: Tensor
    poses: Tensor
    things: list[list[Thing]]
    asked: list[tuple[int, str]]


class Probe:
    """The cases of one probe, prepared once for all rows with the codec of `model`; `score` answers
    for a model with the same codec.

    cases: held-out rooms of the study's `seed`; what generation reads out is measured in all of
    them, what is written in every EVERY-th. Raises LociError for too few.
    """

    def __init__(self, model: WorldModel, cache: EpisodeCache, cases: int, seed: int):
        self.cases, self.seed = probe_cases(cases, seed), seed
        self.truths = [prepare(case, cache, model.config.camera) for case in self.cases]
        self.rooms = [variants(truth, model) for truth in self.truths[::EVERY]]

    def score(
        self, model: WorldModel, advance: Callable[[int], None] = lambda cases: None
    ) -> list[CaseScore]:
        """What `model` wrote and what it reads out, case by case. LociError for a memory whose
        state is no fixed set of numbers."""
        if model.config.memory.wants:
            raise LociError(
                "this memory observes depth: a map has no fixed places for a linear probe to ask; "
                "look at it with `loci map`"
            )

        def write(latents: Tensor, poses: Tensor) -> Mapping[str, Tensor]:
            session = model.session(len(latents))
            session.write(latents, poses)
            return session.snapshot()

        written = self.written(write, device_of(model))
        videos = rollout(model, self.truths, self.seed, advance=advance)
        read = [score_recall(t, v).metrics for t, v in zip(self.truths, videos, strict=True)]
        return [
            CaseScore(w | {name: r[name] for name in READ})
            for w, r in zip(written, read, strict=True)
        ]

    def reference(self, name: str) -> list[CaseScore]:
        """What `blind` or `latents` has written."""
        hold: Hold = {
            BLIND: lambda latents, poses: {}, LATENTS: lambda latents, poses: {"all": latents},
        }[name]
        return [CaseScore(metrics) for metrics in self.written(hold, torch.device("cpu"))]

    def written(self, hold: Hold, device: torch.device) -> list[dict[str, Tally]]:
        """The answers of linear probes on the states that `hold` makes, case by case."""
        nothing = dict.fromkeys(WRITTEN, Tally(0.0, 0))
        metrics = [dict(nothing) for _ in self.cases]
        for number, room in enumerate(self.rooms):
            metrics[number * EVERY] |= ask(room, states(room, hold, device))
        return metrics


Hold = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""From latents (B, T, C, h, w) and poses (B, T, 4, 4) to what is held of them, {name: (B, ...)}."""


def variants(truth: Truth, model: WorldModel) -> Variants:
    """The room of a case furnished FITTED + ASKED times, and what is asked about."""
    camera = model.config.camera
    room = sample_room(truth.case.seed, truth.case.split)
    choices = [candidates(room, index) for index in range(len(room.places))]
    draw = room_rng(room.split, room.seed, "probe")
    poses = truth.poses[: truth.out]
    things, latents = [], []
    for _ in range(FITTED + ASKED):
        placed = furnish(choices, draw)
        objects = tuple(None if t.missing else t.thing for t in placed)
        furnished = replace(room, places=tuple(t.thing for t in placed), objects=objects)
        video = torch.from_numpy(furnished.render(poses, camera).rgb)[None]
        with torch.inference_mode():
            latents.append(model.codec.encode(video.to(device_of(model))).cpu())
        things.append(placed)
    asked = [(thing.index, thing.group) for thing in truth.returns]
    return Variants(room, torch.cat(latents), torch.from_numpy(poses), things, asked)


@torch.inference_mode()
def states(room: Variants, hold: Hold, device: torch.device) -> dict[str, Tensor]:
    """What `hold` makes of every variant, {name: (V, numbers)}."""

    def one(latents: Tensor) -> dict[str, Tensor]:
        held = hold(latents.to(device), room.poses.expand(len(latents), -1, -1, -1))
        ragged = [
            name for name, value in held.items() if value.is_floating_point()
            and not name.startswith(ASIDE) and value.shape[:1] != latents.shape[:1]
        ]
        if ragged:
            raise LociError(f"a linear probe asks the same numbers of all streams, and this memory "
                            f"keeps as many '{ragged[0]}' as it saw; leave the probe out")
        return {
            name: value.reshape(len(value), -1).float().cpu() for name, value in held.items()
            if value.is_floating_point() and not name.startswith(ASIDE)
        }

    with pool(device) as threads:
        pieces = list(threads.map(one, room.latents.split(BATCH)))
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def ask(room: Variants, held: Mapping[str, Tensor]) -> dict[str, Tally]:
    """The answers of linear probes about the last ASKED variants of a room, fitted on the rest."""
    found = dict.fromkeys(WRITTEN, Tally(0.0, 0))
    kernel = products(held, FITTED, FITTED + ASKED)
    for place, group in room.asked:
        things = [variant[place] for variant in room.things]
        here = np.array([not t.missing for t in things])
        known, asked = np.flatnonzero(here[:FITTED]), np.flatnonzero(here[FITTED:]) + FITTED
        there = ridge(kernel[:FITTED], kernel[FITTED:], here[:FITTED, None].astype(float))[:, 0]
        ahead = there[here[FITTED:]][:, None] - there[~here[FITTED:]]
        hits = float((ahead > 0).sum() + 0.5 * (ahead == 0).sum())
        found["there"] = _plus(found["there"], hits, ahead.size)

        def predict(targets: list, known: np.ndarray = known, asked: np.ndarray = asked):
            inner, outer = kernel[np.ix_(known, known)], kernel[np.ix_(asked, known)]
            return ridge(inner, outer, np.array(targets, dtype=float).reshape(len(known), -1))

        seen = [things[v] for v in known]
        which = predict([[t.number == n for n in range(CANDIDATES)] for t in seen])
        where = predict([t.moved for t in seen])[:, 0]
        turn = predict([t.turned for t in seen])[:, 0]
        for number, variant in enumerate(asked):
            true = things[variant]
            # Equal scores are a guess among equals.
            best = np.isclose(which[number], which[number].max())
            hit = float(best[true.number] / best.sum())
            found[f"which_{group}"] = _plus(found[f"which_{group}"], hit)
            for name, value, answer in (
                ("where", where[number], true.moved), ("turn", turn[number], true.turned)
            ):
                found[name] = _plus(found[name], float(np.degrees(abs(value - answer))))
    return found


def probe_cases(count: int, study_seed: int) -> tuple[Case, ...]:
    """The held-out rooms of a probe."""
    return make_cases("heldout", (PROBED,), count, study_seed)


def _plus(tally: Tally, value: float, count: int = 1) -> Tally:
    return Tally(tally.total + value, tally.count + count)
