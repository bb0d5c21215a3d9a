"""The probe: what a state holds linearly is found, what it does not is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from fake_worlds import FakeSession, FakeWorld, last_view, nearest_view
from loci.commands.probe import COLUMNS, table
from loci.commands.probe import probe as command
from loci.commands.show import console_table
from loci.data.episodes import EpisodeCache
from loci.errors import LociError
from loci.geometry import Camera
from loci.memory import Map
from loci.study.rooms import probe as probes
from loci.study.rooms.objects import CaseScore
from loci.study.rooms.probe import ASKED, BLIND, FITTED, LATENTS, Probe, Variants
from loci.study.rooms.results import aggregate
from loci.training.ridge import STRENGTHS, products, ridge
from loci.worlds.rooms.room import CANDIDATES, candidates
from tiny_world import tiny_world

CASES = 2
SMALL = Camera(height=32, width=32)


class Remembering(FakeWorld):
    """Its state is what `hold` makes of all frames that were written."""

    def __init__(self, hold=lambda frames: frames, answer=last_view):
        super().__init__(answer, SMALL)
        self.hold = hold

    def session(self, batch: int) -> FakeSession:
        session = FakeSession(self, batch)
        session.snapshot = lambda: {
            "written": torch.ones(batch, dtype=torch.long),
            "reference": torch.randn(batch, 4, 4),
            "state": self.hold(torch.stack([torch.stack(f) for f in session.frames])),
        }
        return session


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    return Probe(Remembering(), EpisodeCache(tmp_path_factory.mktemp("episodes")), CASES, 0)


def means(scores: list[CaseScore]) -> dict[str, float]:
    return {k: v["mean"] for k, v in aggregate({"probe": {"row": scores}})["row"]["probe"].items()}


def asked(room: Variants, state: Tensor) -> dict[str, float]:
    return means([CaseScore(probes.ask(room, {"state": state}))])


def oracle(room: Variants) -> dict[str, Tensor]:
    """States that spell out the answers, a state for each question."""
    here = torch.tensor([[float(not t.missing) for t in things] for things in room.things])
    kinds = torch.tensor([[t.number for t in things] for things in room.things])
    where = torch.tensor([[[t.moved, t.turned] for t in things] for things in room.things])
    which = torch.nn.functional.one_hot(kinds, CANDIDATES)[:, [place for place, _ in room.asked]]
    return {"there": here, "which": which.float().flatten(1), "where": where.flatten(1)}


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
    best = min(STRENGTHS * unit, key=lambda s: sum(
        np.square(y[i] - plain(s, np.delete(everyone, i), x[i : i + 1])).sum() for i in everyone
    ))
    close = [np.abs(found - plain(s, everyone, new)).max() for s in STRENGTHS * unit]
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
    (room,) = probe.rooms
    scores = {name: asked(room, state) for name, state in oracle(room).items()}
    blind = means(probe.reference(BLIND))
    assert scores["there"]["there"] > 0.99
    assert scores["which"]["which_later"] > 0.9
    assert scores["where"]["where"] < 0.5 * blind["where"]


def test_a_state_without_the_past_is_at_chance(probe: Probe):
    (room,) = probe.rooms
    noise = torch.randn(FITTED + ASKED, 50, generator=torch.Generator().manual_seed(1))
    scores, blind = asked(room, noise), means(probe.reference(BLIND))
    assert blind["there"] == 0.5
    assert abs(scores["there"] - 0.5) < 0.15
    assert scores["which_later"] < 0.4
    assert blind["which_later"] < 0.4
    assert scores["where"] > 0.7 * blind["where"]


def test_a_room_differs_from_variant_to_variant_as_it_says(probe: Probe):
    (room,) = probe.rooms
    truth = probe.truths[0]
    assert room.latents.shape == (FITTED + ASKED, truth.observed, 3, 32, 32)
    assert [(r.index, r.group) for r in truth.returns] == room.asked
    for things in room.things:
        for place, thing in enumerate(things):
            choice = candidates(room.room, place)[thing.number]
            assert (choice.shape, choice.color) == (thing.thing.shape, thing.thing.color)
            there, here = room.room.places[place].position, thing.thing.position
            assert np.hypot(there[0], there[2]) == pytest.approx(np.hypot(here[0], here[2]))
            turn = np.arctan2(here[0], here[2]) - np.arctan2(there[0], there[2])
            assert np.angle(np.exp(1j * (turn - thing.moved))) == pytest.approx(0, abs=1e-9)
            facing = thing.thing.yaw - np.arctan2(here[0], here[2])
            assert np.angle(np.exp(1j * (facing - thing.turned))) == pytest.approx(0, abs=1e-9)
    missing = np.mean([t.missing for things in room.things for t in things])
    assert 0.1 < missing < 0.3


def test_it_is_the_snapshot_that_is_asked(probe: Probe):
    """The state of a stream, not what it was made of, and without what is no memory."""
    (room,) = probe.rooms
    world = Remembering()

    def write(latents: Tensor, poses: Tensor):
        session = world.session(len(latents))
        session.write(latents, poses)
        return session.snapshot()

    held = probes.states(room, write, torch.device("cpu"))
    assert set(held) == {"state"}
    assert torch.equal(held["state"], room.latents.flatten(1))
    latents = means(probe.reference(LATENTS))
    assert asked(room, held["state"]) == latents
    assert latents["which_later"] > 0.5
    assert latents["there"] > 0.8


def test_a_state_that_is_one_number_a_stream_is_asked_too(probe: Probe):
    """As the spatial grid counts its frames."""
    (room,) = probe.rooms
    count = probes.states(
        room, lambda latents, _: {"count": torch.full((len(latents),), 3.0)}, torch.device("cpu")
    )["count"]
    assert count.shape == (FITTED + ASKED, 1)
    assert (count == 3).all()


def test_what_is_read_out_is_what_the_recall_branch_scores(probe: Probe):
    able = means(probe.score(Remembering(answer=nearest_view)))
    unable = means(probe.score(Remembering(answer=last_view)))
    blank = means(probe.score(Remembering(lambda frames: frames[:, -1], nearest_view)))
    assert able["identity_later"] == 1
    assert unable["identity_later"] < 0.5
    # What is written does not depend on what is generated, nor the other way round.
    assert able["which_later"] == unable["which_later"]
    assert blank["identity_later"] == 1
    assert blank["which_later"] < 0.5


def test_a_map_has_no_fixed_places_to_ask(probe: Probe):
    with pytest.raises(LociError, match="look at it with `loci map`"):
        probe.score(tiny_world(Map()))
    ragged = {"frames": torch.zeros(3)}
    with pytest.raises(LociError, match="as many 'frames' as it saw; leave the probe out"):
        probes.states(probe.rooms[0], lambda latents, poses: ragged, torch.device("cpu"))


def test_the_table_fits_eighty_columns():
    share, tenths = ({"mean": x, "lo": x, "hi": x, "n": 64} for x in (1.0, 123.4))
    scores = {name: tenths if name in ("where", "turn", "psnr_seen") else share
              for name, _ in COLUMNS}
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    protocol = {"cases": list(range(64)), "probed_rooms": 64}
    console.print(console_table(table({"protocol": protocol, "rows": {"context-20": scores}})))
    text = console.export_text()
    assert "…" not in text
    assert text.count("123.4") == 9
    assert text.count("context-20") == 1


def test_the_command_says_what_is_wrong(tmp_path: Path):
    with pytest.raises(LociError, match="no checkpoint at"):
        command(tmp_path / "none.safetensors")
    with pytest.raises(LociError, match="ask for 1 or more"):
        command(tmp_path / "none.safetensors", cases=0)
