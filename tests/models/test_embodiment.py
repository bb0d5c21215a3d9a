"""A policy's robot travels with its checkpoint, and a policy works from that alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loci.config import Config
from loci.errors import LociError
from loci.geometry import Camera
from loci.io.bundled import bundled
from loci.io.checkpoint import load_checkpoint, save_checkpoint
from loci.io.migrations import migrate
from loci.io.mosaic import mosaic
from loci.memory import FullHistory
from loci.models.embodiment import Embodiment, RobotCamera, Vector
from loci.models.text import HashedWords
from loci.models.world_action import KIND, WorldActionConfig, WorldActionModel
from loci.recipes.tabletop import tabletop
from loci.worlds.tabletop.embodiment import JOINT_NAMES, embodiment
from loci.worlds.tabletop.env import Tabletop
from loci.worlds.tabletop.tasks import make_task

SHIPPED = ("put-back-block", "cover-blocks", "press-button")


def shipped(name: str) -> WorldActionModel:
    return WorldActionModel.load(bundled(f"{name}-hybrid"))


@pytest.mark.parametrize("task", SHIPPED)
def test_policies_that_ship_know_their_robot(task: str) -> None:
    model = shipped(task)
    assert model.config.embodiment == Tabletop(task).embodiment
    assert model.config.embodiment == embodiment(instructions=(make_task(task).instruction,))


@pytest.mark.parametrize("task", SHIPPED)
def test_the_robot_leaves_the_hash_as_it_was(task: str) -> None:
    run = tabletop(task, FullHistory())
    bare, named = run.model, replace(run.model, embodiment=run.data.embodiment())
    assert bare.hash() == named.hash()
    assert replace(run, model=named).hash() == run.hash()
    assert WorldActionConfig.from_json(named.to_json()) == named != bare


def test_a_robot_comes_from_the_data() -> None:
    run = tabletop("put-back-block", FullHistory())
    assert run.embodied().embodiment == Tabletop("put-back-block").embodiment
    wrong = replace(run.data.embodiment(), cameras=(RobotCamera(name="head"),))
    with pytest.raises(LociError, match=r"has the cameras head, the data head, left_wrist"):
        replace(run, model=replace(run.model, embodiment=wrong)).embodied()


def test_a_policy_works_from_its_checkpoint_alone() -> None:
    model, env = shipped("put-back-block"), Tabletop("put-back-block")
    observation, _ = env.reset(seed=3)
    ours, other = model.policy(), model.policy()
    ours.observe(observation["pixels"], observation["agent_pos"])
    views = [observation["pixels"][name][None] for name in ("head", "left_wrist", "right_wrist")]
    picture = torch.from_numpy(mosaic(views, model.config.world.camera))[None]
    other.observe(picture, torch.from_numpy(observation["agent_pos"])[None])
    noise = torch.randn(1, model.config.expert.horizon, 14)
    assert torch.equal(ours.act(noise), other.act(noise))
    assert ours.act().shape == noise.shape
    assert model.steps_per_image == model.config.expert.horizon


def test_robots_side_by_side_give_their_views_by_name() -> None:
    model = shipped("cover-blocks")
    seen = [Tabletop("cover-blocks").reset(seed=seed)[0] for seed in (1, 2)]
    views = {
        name: np.stack([one["pixels"][name] for one in seen])[:, None] for name in seen[0]["pixels"]
    }
    state = np.stack([one["agent_pos"] for one in seen])
    both, noise = model.policy(2), torch.randn(2, model.config.expert.horizon, 14)
    both.observe(views, state)
    acts = both.act(noise)
    for number, one in enumerate(seen):
        alone = model.policy()
        alone.observe(one["pixels"], one["agent_pos"])
        torch.testing.assert_close(alone.act(noise[number : number + 1])[0], acts[number])


SIZE = Camera(height=96, width=80)
ROBOT = embodiment()


def views(**changes: Any) -> dict[str, np.ndarray]:
    sizes = {"head": (64, 80), "left_wrist": (32, 40), "right_wrist": (32, 40)}
    found = {name: np.zeros((*size, 3), np.uint8) for name, size in sizes.items()}
    return {name: view for name, view in (found | changes).items() if view is not None}


@pytest.mark.parametrize(("changes", "words"), [
    ({"head": None}, r"no pictures of the camera 'head'; give those of head, left_wrist, right"),
    ({"head": np.zeros((64, 80, 3))}, r"'head' are float64 \(64, 80, 3\); give uint8 RGB"),
    ({"head": np.zeros((64, 80), np.uint8)}, r"'head' are uint8 \(64, 80\); give uint8 RGB"),
    ({"head": np.zeros((64, 64, 3), np.uint8)}, r"64 x 64, and the policy knows it at 64 x 80"),
    ({"head": np.zeros((2, 64, 80, 3), np.uint8)}, r"give as many of each"),
])
def test_other_pictures_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LociError, match=words):
        ROBOT.picture(views(**changes), SIZE)


def test_pictures_of_another_size_are_resized_and_further_cameras_left_aside() -> None:
    slope = np.add.outer(2 * np.arange(64), np.arange(80))
    head = np.stack([slope, slope // 2, 200 - slope // 2], axis=-1).astype(np.uint8)
    twice = head.repeat(2, axis=0).repeat(2, axis=1)
    found = ROBOT.picture(views(head=twice, chest=np.zeros((5, 5, 3), np.uint8)), SIZE)
    assert found.shape == (96, 80, 3)
    assert np.abs(found[32:].astype(int) - head).max() <= 1


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Embodiment(cameras=()), "0 cameras in a mosaic; give one, or three"),
    (lambda: replace(ROBOT, cameras=ROBOT.cameras[:1] * 3), "are not all different"),
    (lambda: replace(ROBOT, rate=0.0), "0.0 actions a second; give more than 0"),
    (lambda: Vector(names=("a", "b"), units=("m",)), "1 units for 2 names; give one each"),
    (lambda: replace(shipped("cover-blocks").config, embodiment=replace(
        ROBOT, state=Vector(names=("a", "b")))), "2 numbers in its state, the model 14"),
])
def test_robots_that_cannot_be_are_refused(make: Any, words: str) -> None:
    with pytest.raises(LociError, match=words):
        make()


@pytest.mark.parametrize(("other", "words"), [
    (replace(ROBOT, cameras=ROBOT.cameras[:1]), "the camera 'left_wrist', which this robot lacks"),
    (replace(ROBOT, rate=50.0), "acts 20 times a second and this robot 50"),
    (replace(ROBOT, actions=Vector(names=JOINT_NAMES[::-1])), "'left_1' where this robot's has"),
    (replace(ROBOT, state=Vector(names=JOINT_NAMES[:7])), "'right_1' where .* has 'None'"),
])
def test_a_policy_is_not_run_on_another_robot(other: Embodiment, words: str) -> None:
    with pytest.raises(LociError, match=words):
        ROBOT.check_other(other)


def test_what_is_unknown_may_be_anything() -> None:
    bare = Embodiment(cameras=tuple(RobotCamera(name=name) for name in ROBOT.camera_names))
    bare.check_other(ROBOT)
    ROBOT.check_other(bare)
    assert bare.picture(views(head=np.zeros((7, 9, 3), np.uint8)), SIZE).shape == (96, 80, 3)


def test_policies_of_earlier_versions_are_given_their_cameras(tmp_path: Path) -> None:
    config, tensors, _ = load_checkpoint(bundled("cover-blocks-hybrid"), KIND)
    del config["embodiment"]
    for notes, names in (
        ({}, ("head", "left_wrist", "right_wrist")),
        ({"cameras": ["front"]}, ("front",)),
    ):
        save_checkpoint(tmp_path / "old.safetensors", KIND, config, tensors, **notes)
        model = WorldActionModel.load(tmp_path / "old.safetensors")
        assert model.config.embodiment == Embodiment(
            cameras=tuple(RobotCamera(name=name) for name in names)
        )
        model.save(tmp_path / "new.safetensors")
        again = WorldActionModel.load(tmp_path / "new.safetensors")
        assert again.config == model.config
    now = {"config": again.config.to_dict(), "training": {"cameras": ["other"]}}
    assert migrate(KIND, now) == now


def test_a_policy_for_one_task_starts_with_its_instruction() -> None:
    config = shipped("cover-blocks").config
    torch.manual_seed(0)
    model = replace(config, text=HashedWords()).build().eval()
    # Fresh text layers end in zeros, which would let no instruction count.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    observation, _ = Tabletop("cover-blocks").reset(seed=1)
    noise = torch.randn(1, config.expert.horizon, 14)

    def act(policy: Any) -> torch.Tensor:
        policy.observe(observation["pixels"], observation["agent_pos"])
        return policy.act(noise, temperature=1.0)

    own = act(model.policy())
    assert torch.equal(own, act(model.policy().init(make_task("cover-blocks").instruction)))
    assert not torch.equal(own, act(model.policy().init("do something else")))
    with pytest.raises(LociError, match="2 instructions for 1 robots"):
        model.policy().init(["one", "two"])


PIXELS = {name: np.zeros((64, 80, 3), np.uint8) for name in ROBOT.camera_names}
JOINTS = np.zeros(14)


@pytest.mark.parametrize(("call", "words"), [
    (lambda p: p.observe(None, JOINTS), "Policy.observe: images is None; give"),
    (lambda p: p.observe({**PIXELS, "head": None}, JOINTS), "give .* for 'head'"),
    (lambda p: p.observe({**PIXELS, "head": np.array([["x"]])}, JOINTS), "head is an array of <U1"),
    (lambda p: p.observe(PIXELS, list(JOINTS)), "Policy.observe: proprio is a list"),
    (lambda p: p.observe(PIXELS, JOINTS.astype(object)), "proprio is an array of object; give num"),
    (lambda p: p.observe(PIXELS, JOINTS[:13]), r"proprio of shape \(1, 13\); give \(1, 14\)"),
    (lambda p: p.observe(PIXELS, JOINTS, streams=0), "streams is a int .*; give a list of whole"),
    (lambda p: p.act(steps="2"), "Policy.act: steps is a str .*; give a whole number"),
    (lambda p: p.init(5), "Policy.init: text is a int .*; give a .* or a list of texts"),
    (lambda p: p.init("go"), "this model reads no instructions"),
    (lambda p: p.act(), "observe the scene before acting"),
])
def test_a_robot_that_calls_wrongly_meets_one_line(call: Any, words: str) -> None:
    policy = shipped("cover-blocks").policy()
    with pytest.raises(LociError, match=words):
        call(policy)
    assert policy.lengths == [0]


def test_the_robot_is_kept_but_not_hashed() -> None:
    assert issubclass(Embodiment, Config)
    config = shipped("cover-blocks").config
    assert "embodiment" in config.to_dict()
    assert config.hash() == replace(config, embodiment=None).hash()
