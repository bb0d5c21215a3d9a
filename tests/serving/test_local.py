"""A policy in this process acts as in the evaluation, and refuses what is no frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from loci.errors import LociError
from loci.models.text import HashedWords
from loci.serving.client.control import control
from loci.serving.local import LocalPolicy
from loci.study.tabletop.closed_loop import Loop, play
from served import Own, connect, robots, serving
from served import episode as frames_of
from three_cameras import ThreeCameras, in_pairs, three_eyed
from tiny_policy import ACTIONS, HORIZON, MEMORIES, PROPRIO, tiny_policy


class Robot:
    """An environment as the control loop meets it."""

    def __init__(self, env, seed):
        self.env, self.actions, self.over = env, [], False
        self.env.reset(seed=seed)

    def observe(self):
        seen = self.env.observe()
        return {"images": seen["pixels"], "state": seen["agent_pos"]}

    def move(self, action):
        self.actions.append(np.array(action))
        _, ended, cut, _ = self.env.advance(action)
        self.over = ended or cut

    def hold(self):
        pass

    def finished(self):
        return self.over


@pytest.mark.parametrize("name", ["hybrid", "window-acts"])
def test_in_the_control_loop_it_acts_as_in_the_evaluation(name, monkeypatch):
    model, done = three_eyed(name), {}
    advance = ThreeCameras.advance

    def watched(self, action):
        done.setdefault(self.seed, []).append(np.array(action))
        return advance(self, action)

    monkeypatch.setattr(ThreeCameras, "advance", watched)
    for episode in range(2):
        play(model, ThreeCameras, Loop(seed=5), [episode])
    expected, policy = dict(done), LocalPolicy(model, seed=5)
    monkeypatch.undo()
    for episode in range(2):
        robot = Robot(ThreeCameras(), episode)
        control(
            policy, robot, 1000.0, 100, executed=bool(model.history), done=robot.finished,
            sleep=lambda seconds: None,
        )
        np.testing.assert_array_equal(robot.actions, expected[episode])
        policy.reset()


def test_pictures_are_gathered_until_they_are_a_frame():
    model = in_pairs(three_eyed())
    env, policy, direct = ThreeCameras(), LocalPolicy(model), model.policy()
    env.reset(seed=1)
    views = [env.observe()]
    for _ in range(2):
        env.advance(np.ones(ACTIONS))
        views.append(env.observe())
    first, second, third = [{"images": v["pixels"], "state": v["agent_pos"]} for v in views]
    policy.infer(first)
    with pytest.raises(LociError, match=f"1 pictures .* give 2: .* each {HORIZON // 2} actions"):
        policy.infer(second)
    assert policy.observe(second) == {"frames": 1}
    acted = policy.infer(third)
    assert acted["frames"] == 2
    # Both at once are the same frame.
    pictures = {n: np.stack([v["pixels"][n] for v in views[1:]]) for n in views[0]["pixels"]}
    direct.observe(views[0]["pixels"], views[0]["agent_pos"])
    direct.observe(pictures, views[2]["agent_pos"])
    other = LocalPolicy(model)
    other.infer(first)
    np.testing.assert_array_equal(
        other.infer({"images": pictures, "state": third["state"]})["actions"], acted["actions"]
    )
    torch.testing.assert_close(
        policy.service.policy.snapshot(), direct.snapshot(), rtol=0, atol=0
    )


def test_episodes_are_counted_and_have_noise_of_their_own():
    policy, env = LocalPolicy(three_eyed(), seed=3), ThreeCameras()
    seen, _ = env.reset(seed=0)
    observation = {"images": seen["pixels"], "state": seen["agent_pos"]}
    first = policy.infer(observation)["actions"]
    begun = policy.reset()
    assert begun == policy.info()
    assert begun.items() >= {"frames": 0, "seed": 3, "episode": 1, "instruction": None}.items()
    second = policy.infer(observation)["actions"]
    policy.reset(seed=3)
    again = policy.infer(observation)["actions"]
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, second)
    assert first.shape == (HORIZON, ACTIONS)


def test_instructions_reach_a_policy_that_reads_them():
    reads = tiny_policy(MEMORIES["hybrid"], text=True)
    reads.config = replace(reads.config, text=HashedWords())
    picture, state = np.zeros((32, 32, 3), np.uint8), np.zeros(PROPRIO)

    def acted(model, instruction):
        policy = LocalPolicy(model)
        policy.reset(instruction, seed=0)
        policy.observe({"image": picture, "state": state})
        return policy.act()["actions"]

    assert not np.allclose(acted(reads, "fold the shirt"), acted(reads, "open the door"))
    deaf = tiny_policy(MEMORIES["hybrid"])
    assert np.array_equal(acted(deaf, "fold the shirt"), acted(deaf, "open the door"))


@pytest.mark.parametrize(("observation", "word"), [
    ({"state": np.zeros(PROPRIO)}, "no picture of the camera 'head'"), ({"images": {}}, "no state"),
    ({"images": {"head": np.zeros((1, 32, 48, 3), np.uint8),
                 "left_wrist": np.zeros((2, 16, 24, 3), np.uint8),
                 "right_wrist": np.zeros((1, 16, 24, 3), np.uint8)}, "state": np.zeros(PROPRIO)},
     "give as many of each"),
    ({"images": {"head": np.zeros((32, 48, 3), np.uint8)}, "state": np.zeros(PROPRIO)},
     "left_wrist"),
])  # fmt: skip
def test_what_is_no_observation_changes_nothing(observation, word):
    policy = LocalPolicy(three_eyed())
    with pytest.raises(LociError, match=word) as caught:
        policy.infer(observation)
    assert "\n" not in str(caught.value)
    assert policy.frames == 0


def test_a_memory_that_grows_has_no_end():
    model = tiny_policy(MEMORIES["full"])
    policy, direct = LocalPolicy(model), Own(model.policy(1, 40))
    for seen in frames_of(3, 20):
        actions = policy.infer(seen)["actions"]
        np.testing.assert_array_equal(actions, direct.infer(seen))
    assert policy.frames == 20


@pytest.mark.parametrize("name", ["hybrid", "window-acts"])
def test_a_robot_behind_a_socket_does_what_one_in_this_process_does(name):
    model, acted = three_eyed(name), []
    with serving(robots(model)) as server, connect(server) as client:
        for policy in (client, LocalPolicy(model)):
            policy.reset(seed=3, episode=1)
            robot = Robot(ThreeCameras(), 1)
            control(
                policy, robot, 1000.0, 100, executed=bool(model.history), done=robot.finished,
                sleep=lambda seconds: None,
            )
            acted.append(np.stack(robot.actions))
    np.testing.assert_array_equal(*acted)
