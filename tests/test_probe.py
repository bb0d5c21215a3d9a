"""The probe: what a state holds linearly is found, what it does not is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fake_worlds import FakeSession, FakeWorld, last_view, nearest_view
from loci.data.episodes import EpisodeCache
from loci.errors import LociError
from loci.evaluation import probe as probes
from loci.evaluation.objects import CaseScore
from loci.evaluation.probe import BINS, BLIND, LATENTS, Probe, products, ridge
from loci.evaluation.probe_command import probe as command
from loci.evaluation.results import aggregate
from loci.memory import ROWS
from loci.training.recipes import rooms
from loci.types import Camera

CASES = 6


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    cache = EpisodeCache(tmp_path_factory.mktemp("episodes"))
    return Probe(Camera(height=32, width=32), cache, CASES, 0)


class Remembering(FakeWorld):
    """Its state is what `hold` makes of all frames that were written."""

    def __init__(self, hold, answer=last_view):
        super().__init__(answer, Camera(height=32, width=32))
        self.hold = hold

    def session(self, batch: int) -> FakeSession:
        session = FakeSession(self, batch)
        session.snapshot = lambda: {
            "written": torch.ones(batch, dtype=torch.long),
            "reference": torch.randn(batch, 4, 4),
            "state": self.hold(torch.stack([torch.stack(f) for f in session.frames])),
        }
        return session


def means(scores: list[CaseScore]) -> dict[str, float]:
    return {k: v["mean"] for k, v in aggregate({"probe": {"row": scores}})["row"]["probe"].items()}


def oracle(probe: Probe) -> tuple[Tensor, Tensor]:
    """Two states that spell out the answers: what stands in each direction, and where and how."""
    known = [*probe.fitted.asked, *probe.asked]
    shapes, colors = probes.SPLIT_SHAPES["train"], probes.SPLIT_COLORS["train"]
    what = torch.zeros(len(known), BINS, len(shapes) + len(colors))
    where = torch.zeros(len(known), BINS, 2)
    for room, things in enumerate(known):
        for a in things:
            what[room, a.direction, shapes.index(a.thing.shape)] = 1
            what[room, a.direction, len(shapes) + colors.index(a.thing.color)] = 1
            where[room, a.direction] = torch.tensor([probes._offset(a), a.turn])
    return what.flatten(1), where.flatten(1)


def test_ridge_equals_the_primal_form():
    """Against the normal equations with the intercept left free."""
    draw = np.random.default_rng(0)
    x, new, y = draw.normal(size=(40, 7)), draw.normal(size=(5, 7)), draw.normal(size=(40, 2))
    y += x[:, :2] * 3
    kernel = products({"x": torch.from_numpy(np.concatenate([x, new]))}, 40, 45)
    centred = x - x.mean(0)
    scale = centred.var(0).sum()
    found = ridge(kernel[:40], kernel[40:], y)

    def plain(strength: float, rows: np.ndarray, ask: np.ndarray) -> np.ndarray:
        mean, z = x[rows].mean(0), x[rows] - x[rows].mean(0)
        weights = np.linalg.solve(
            z.T @ z / scale + strength * np.eye(7), z.T @ (y[rows] - y[rows].mean(0)) / scale
        )
        return y[rows].mean(0) + (ask - mean) @ weights

    everyone = np.arange(40)
    unit = np.linalg.eigvalsh(centred @ centred.T / scale).clip(min=0).mean()
    best = min(probes.STRENGTHS * unit, key=lambda s: sum(
        np.square(y[i] - plain(s, np.delete(everyone, i), x[i : i + 1])).sum() for i in everyone
    ))
    close = [np.abs(found - plain(s, everyone, new)).max() for s in probes.STRENGTHS * unit]
    assert min(close) < 1e-9
    # The shortcut for leaving one out keeps the strength of the whole: the same choice here.
    assert np.abs(found - plain(best, everyone, new)).max() < 1e-9


def test_products_do_not_depend_on_a_states_size_or_place():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(12, 5, generator=draw), torch.randn(12, 9, generator=draw)
    one = products({"a": a, "b": b}, 8, 12)
    two = products({"a": 7 * a + 3, "b": torch.cat([b, torch.ones(12, 4)], dim=1)}, 8, 12)
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert one.shape == (12, 8)


def test_a_state_that_holds_the_answers_is_read(probe: Probe):
    what, where = oracle(probe)
    scores = means([CaseScore(m) for m in probe.written({"what": what})])
    assert scores["there"] > 0.99
    assert scores["which_later"] > 0.9
    blind = means(probe.reference(BLIND, FakeWorld(last_view)))
    scores = means([CaseScore(m) for m in probe.written({"where": where})])
    assert scores["where"] < 0.5 * blind["where"]
    assert scores["turn"] < 0.5 * blind["turn"]


def test_a_state_without_the_past_knows_no_more_than_the_blind(probe: Probe):
    noise = torch.randn(probe.rooms + CASES, 50, generator=torch.Generator().manual_seed(1))
    blind = means(probe.reference(BLIND, FakeWorld(last_view)))
    scores = means([CaseScore(m) for m in probe.written({"state": noise})])
    assert abs(scores["there"] - blind["there"]) < 0.15
    assert scores["which_later"] < 0.4
    assert 0 <= blind["which_later"] < 0.4


def test_it_is_the_snapshot_that_is_asked(probe: Probe):
    """The state of a stream, not what it was made of, and without what is no memory."""
    everything = Remembering(lambda frames: frames)
    last = Remembering(lambda frames: frames[:, -1])
    states = probe.states(everything)
    assert set(states) == {"state"}
    assert states["state"].shape == (probe.rooms + CASES, 17 * 3 * 32 * 32)
    assert means([CaseScore(m) for m in probe.written(states)]) == means(
        probe.reference(LATENTS, FakeWorld(last_view))
    )
    assert probe.states(last)["state"].shape == (probe.rooms + CASES, 3 * 32 * 32)


def test_what_is_read_out_is_what_the_recall_branch_scores(probe: Probe):
    able = means(probe.score(Remembering(lambda frames: frames, nearest_view)))
    unable = means(probe.score(Remembering(lambda frames: frames, last_view)))
    assert able["identity_later"] == 1
    assert unable["identity_later"] < 0.5
    # What is written does not depend on what is generated.
    assert able["which_later"] == unable["which_later"]


def test_rooms_of_the_probe_are_no_rooms_of_the_training():
    assert rooms(ROWS["none"]).episodes < probes.FIRST_ROOM


def test_bearings_and_turns_are_those_of_the_first_camera(probe: Probe):
    """An object straight ahead of the first camera and facing it."""
    room = probes.sample_room(3, "train")
    ahead = room.start @ np.array([0.0, 0.0, 2.0, 1.0])
    yaw = float(np.arctan2(room.start[0, 2], room.start[2, 2]))
    thing = probes.Object("cube", "red", tuple(ahead[:3]), 0.7, yaw)
    placed = probes.Room(**{**vars(room), "places": (thing,), "objects": (thing,)})
    asked = probes._asked(placed, 0, "first")
    assert abs(asked.bearing) < 1e-9
    assert abs(asked.turn) < 1e-9


def test_the_command_says_what_is_wrong(tmp_path: Path):
    with pytest.raises(LociError, match="no checkpoint at"):
        command(tmp_path / "none.safetensors")
    with pytest.raises(LociError, match="ask for 1 or more"):
        command(tmp_path / "none.safetensors", cases=0)
