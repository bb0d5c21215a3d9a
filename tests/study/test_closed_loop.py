"""Policies in closed loop: seeded, resumable, and counted correctly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from loci.errors import LociError
from loci.geometry import Camera
from loci.io.mosaic import mosaic
from loci.io.progress import Progress
from loci.io.video import walk
from loci.models.embodiment import Embodiment, RobotCamera
from loci.models.world_action import WorldActionModel
from loci.seeds import seed_for
from loci.study.entry import Entry
from loci.study.estimates import wilson
from loci.study.store import Store
from loci.study.tabletop import episodes as kept
from loci.study.tabletop.closed_loop import Loop, play
from loci.study.tabletop.episodes import Episodes
from loci.study.tabletop.results import summarise
from loci.worlds.environment import Stepped
from loci.worlds.film import LAST
from loci.worlds.tabletop.demonstration import first_episode
from loci.worlds.tabletop.tasks import make_task
from tiny_policy import ACTIONS, HORIZON, MEMORIES, PROPRIO, tiny_policy


class Corridor:
    """Ends after a number of chunks that its seed gives, in success where the actions since then
    add up to more than nothing; what it shows depends on both."""

    def reset(self, *, seed=None):
        self.seed, self.steps, self.total = seed, 0, 0.0
        return self.observe(), {}

    def observe(self):
        draw = np.random.default_rng([self.seed, self.steps])
        image = draw.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        return {"pixels": {"head": image}, "agent_pos": np.full(PROPRIO, np.tanh(self.total))}

    def advance(self, action):
        self.steps += 1
        self.total += float(action.sum())
        over = self.steps >= HORIZON * (2 + self.seed % 3) - 1
        won = over and self.total > 0
        stages = {"moved": True, "won": bool(won)}
        failure = "" if won or not over else "lost"
        return 0.0, over, False, {"is_success": won, "stages": stages, "failure": failure}


class Shown(Corridor):
    """The same with steps that show something, as gymnasium has them."""

    def step(self, action):
        result = self.advance(action)
        return (self.observe(), *result)


LOOP = Loop(together=3)


@pytest.fixture(scope="module")
def model():
    return seeing("head")


def seeing(*cameras: str, name: str = "hybrid") -> WorldActionModel:
    """A policy that sees by these cameras."""
    model = tiny_policy(MEMORIES[name])
    robot = Embodiment(cameras=tuple(RobotCamera(name=name) for name in cameras))
    model.config = replace(model.config, embodiment=robot)
    return model


def test_an_episode_is_the_same_in_any_company(model):
    alone = [play(model, Corridor, LOOP, [n])[0] for n in range(5)]
    together = play(model, Corridor, LOOP, range(5))
    assert together == alone
    assert play(model, lambda: Stepped(Shown()), LOOP, range(5)) == alone
    assert len({line["chunks"] for line in alone}) == 3
    other = play(model, Corridor, Loop(seed=9), range(5))
    assert [line["chunks"] for line in other] == [line["chunks"] for line in alone]


def test_without_temperature_the_seed_of_the_noise_does_nothing(model, monkeypatch):
    done: list[np.ndarray] = []
    advance = Corridor.advance

    def watched(self, action):
        done.append(np.array(action))
        return advance(self, action)

    monkeypatch.setattr(Corridor, "advance", watched)

    def actions(**settings):
        done.clear()
        play(model, Corridor, replace(LOOP, **settings), [0])
        return np.stack(done)

    assert np.array_equal(actions(temperature=0.0), actions(temperature=0.0, seed=9))
    assert not np.allclose(actions(), actions(seed=9))


@pytest.mark.parametrize("name", ["window", "window-acts"])
def test_the_policy_is_shown_what_the_environment_shows(name):
    """The closed loop by hand, for one episode, with what was done where the memory keeps it."""
    model = seeing("head", name=name)
    env, policy, chunks, executed = Corridor(), model.policy(), 0, None
    observation, _ = env.reset(seed=4)
    over = False
    while not over:
        policy.observe(
            torch.from_numpy(observation["pixels"]["head"])[None, None],
            torch.from_numpy(observation["agent_pos"])[None].float(), executed,
        )
        draw = torch.Generator().manual_seed(seed_for(0, "act", 4, chunks))
        executed = policy.act(torch.randn(HORIZON, ACTIONS, generator=draw)[None])
        for action in executed[0].numpy():
            *_, over, _, info = env.advance(action)
            if over:
                break
        observation, chunks = env.observe(), chunks + 1
    (line,) = play(model, Corridor, LOOP, [4])
    assert line["success"] == info["is_success"]
    assert line["chunks"] == chunks


@pytest.fixture
def corridor(monkeypatch: pytest.MonkeyPatch):
    """Episodes in the corridor, of a model that fits it."""
    monkeypatch.setattr(kept, "Tabletop", lambda task: Corridor())
    monkeypatch.setattr(kept, "fits", lambda name, config: None)

    def episodes(model, cases: int, key: dict, film: int = 0) -> Episodes:
        entry = Entry("policy", model.config, {}, load=lambda: model)
        loop = replace(LOOP, film=film)
        return Episodes(entry, make_task("put-back-block"), loop, cases, "run", key)

    return episodes


def test_a_killed_run_goes_on_to_the_same_results(model, corridor, tmp_path):
    key = {"config": "abc", "episodes": "any"}
    whole = corridor(model, 7, key).played(Store(tmp_path / "whole"), Progress("", 7))
    cut = Store(tmp_path / "cut")
    corridor(model, 4, key).played(cut, Progress("", 4))
    log = tmp_path / "cut" / "run" / "episodes.jsonl"
    log.write_text(log.read_text()[:-9])  # as a kill in the middle of a line leaves it
    progress = Progress("", 7)
    assert corridor(model, 7, key).missing(cut) == [3, 4, 5, 6]
    assert corridor(model, 7, key).played(cut, progress) == whole
    assert progress.done == 7
    assert log.read_text() == (tmp_path / "whole" / "run" / "episodes.jsonl").read_text()
    # Lines that two processes wrote count once.
    log.write_text(log.read_text() + log.read_text().partition("\n")[2])
    assert corridor(model, 7, key).played(cut, Progress("", 7)) == whole
    # Another key's episodes lie beside them, and both are found again.
    corridor(model, 2, {"config": "other"}).played(cut, Progress("", 2))
    assert len(list(cut.out.glob("run*/episodes.jsonl"))) == 2
    assert corridor(model, 7, key).missing(cut) == []
    log.write_text("{")
    with pytest.raises(LociError, match=r"episodes\.jsonl is damaged"):
        corridor(model, 7, key).missing(cut)


def test_films_are_kept_of_those_asked_for(model, corridor, tmp_path):
    """All cameras, with chunk, cue and outcome written below; the last picture stays for a while.
    """
    corridor(model, 3, {}, film=2).played(Store(tmp_path), Progress("", 3))
    videos = sorted((tmp_path / "run" / "videos").iterdir())
    assert [p.name for p in videos] == ["000.mp4", "001.mp4"]
    pictures = [frame.to_image() for _, frame in walk(videos[0])]
    assert pictures[0].size == (4 * 32, 4 * 32 + 40)
    band = [np.asarray(picture)[128:].astype(int) for picture in pictures]
    assert np.abs(band[-1] - band[-LAST]).mean() < 1
    assert np.abs(band[-1] - band[0]).mean() > 3


@pytest.mark.parametrize(("seed", "episodes", "words"), [
    (-1, 10, "seed -1 is out of range; give 0 to 999"),
    (1000, 10, "seed 1000 is out of range"),
    (0, 100_000_000, "100000000 episodes from 0 on; give 1 to 1000000"),
    (0, 0, "0 episodes"),
])
def test_episodes_that_demonstrations_may_show_are_refused(seed, episodes, words):
    with pytest.raises(LociError, match=words):
        first_episode(seed, episodes)
    assert first_episode(999, 1000) == 999_000


def test_rates_are_counted_among_all_and_among_those_that_came_so_far():
    def line(reached, pressed, placed, failure=""):
        stages = {"reached": reached, "pressed": pressed, "placed": placed}
        return {"stages": stages, "success": placed, "failure": failure, "chunks": 5}

    lines = [line(True, True, True)] * 3 + [line(True, True, False, "wrong mat")] * 2
    lines += [line(True, False, False, "no press"), line(False, False, False, "missed")]
    found = summarise(lines)
    assert found["success"]["rate"] == 3 / 7
    assert (found["success"]["lo"], found["success"]["hi"]) == wilson(3, 7)
    assert found["stages"]["placed"]["given"]["of"] == 5
    assert found["stages"]["placed"]["given"]["rate"] == 3 / 5
    assert found["stages"]["pressed"]["all"]["rate"] == 5 / 7
    assert found["failures"] == {"wrong mat": 2, "no press": 1, "missed": 1}


def test_a_camera_that_is_missing_is_named():
    with pytest.raises(LociError, match="no pictures of the camera 'left_wrist'; give those of"):
        play(seeing("head", "left_wrist", "right_wrist"), Corridor, Loop(), [0])


def test_the_mosaic_lays_the_head_below_the_wrists():
    draw = np.random.default_rng(0)
    head = draw.integers(0, 256, (2, 64, 80, 3)).astype(np.uint8)
    left, right = (draw.integers(0, 256, (2, 32, 40, 3)).astype(np.uint8) for _ in range(2))
    camera = Camera(height=96, width=80)
    found = mosaic([head, left, right], camera)
    assert np.array_equal(found[:, 32:], head)
    assert np.array_equal(found[:, :32, :40], left)
    assert np.array_equal(found[:, :32, 40:], right)
    # A picture of another size is brought to its place: here a ramp, which shrinking leaves one.
    ramp = np.broadcast_to(np.arange(160)[None, None, :, None], (2, 128, 160, 3)).astype(np.uint8)
    shrunk = mosaic([ramp, left, right], camera)[:, 32:].astype(int)
    assert np.abs(shrunk - (2 * np.arange(80) + 0.5)[:, None]).max() <= 1
    flat = mosaic([np.full((1, 480, 640, 3), 7, np.uint8)], camera)
    assert flat.shape == (1, 96, 80, 3)
    assert (flat == 7).all()
    with pytest.raises(LociError, match="2 cameras"):
        mosaic([head, left], camera)
    for wrong in (head / 255, head[..., :1], head[0]):
        with pytest.raises(LociError, match="give uint8 RGB"):
            mosaic([wrong], camera)
