"""RoboTwin's and RMBench's policy package, in one process and in two, against a stand-in."""

from __future__ import annotations

import base64
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import loci
from loci.errors import LociError
from loci.serving.robotwin import CAMERAS, RoboTwinPolicy
from loci.serving.robotwin_server import LARGEST, RoboTwinServer, main
from loci.study.tabletop.closed_loop import Loop, play
from robotwin_stand_in import ModelClient, TaskEnv, evaluate
from three_cameras import SIZES, ThreeCameras, in_pairs, three_eyed
from tiny_policy import ACTIONS, HORIZON, PROPRIO

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "robotwin"


@pytest.fixture(scope="module")
def package():
    """The folder that users copy to `policy/Loci`, imported by its name as RoboTwin does."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("Loci")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def model():
    return three_eyed("window-acts")


@pytest.fixture
def client(model):
    server = RoboTwinServer(lambda: RoboTwinPolicy(model, seed=5), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    clients = []

    def connect():
        clients.append(ModelClient(server.server_address[1]))
        return clients[-1]

    yield connect
    for one in clients:
        one.close()
    server.shutdown()
    server.server_close()
    thread.join()


def test_in_one_process_it_acts_as_in_our_own_evaluation(package, model, monkeypatch):
    """The same observations, instructions apart, the same noise: the same actions, to the bit."""
    done = {}
    advance = ThreeCameras.advance

    def watched(self, action):
        done.setdefault(self.seed, []).append(np.array(action))
        return advance(self, action)

    env = TaskEnv()
    acted = evaluate(package, RoboTwinPolicy(model, seed=5), env, range(2))
    monkeypatch.setattr(ThreeCameras, "advance", watched)
    for episode in range(2):
        play(model, ThreeCameras, Loop(seed=5), [episode])
        np.testing.assert_array_equal(acted[episode], done[episode])
    # Success within a chunk ends it; the cameras are not rendered where nobody looks.
    assert len(acted[0]) == 3 * HORIZON - 1
    assert env.looked == [0, HORIZON, 2 * HORIZON, 3 * HORIZON]


def test_in_two_processes_it_does_the_same(package, model, client):
    alone = evaluate(package, RoboTwinPolicy(model, seed=5), TaskEnv(), range(2))
    remote = evaluate(package, client(), TaskEnv(), range(2))
    for there, here in zip(remote, alone, strict=True):
        np.testing.assert_array_equal(there, here)


def test_message_by_message(package, client):
    robot = client()
    evaluate(package, robot, TaskEnv(step_lim=HORIZON), range(1))
    reset, asked = robot.sent
    assert (reset, robot.received[0]) == ({"cmd": "reset_model", "obs": None}, {"res": None})
    assert asked["cmd"] == "get_action"
    seen = asked["obs"]
    assert seen["instruction"] == "do 0"
    assert {name: (image["dtype"], image["shape"]) for name, image in seen["images"].items()} == {
        name: ("uint8", [*size, 3]) for name, size in zip(CAMERAS, SIZES.values(), strict=True)
    }
    assert (seen["state"]["dtype"], seen["state"]["shape"]) == ("float64", [PROPRIO])
    env = ThreeCameras()
    shown, _ = env.reset(seed=0)
    assert base64.b64decode(seen["images"]["left_camera"]["data"]) == (
        shown["pixels"]["left_wrist"].tobytes()
    )
    answer = robot.received[1]["res"]
    assert answer["look"] == []
    assert answer["actions"]["__numpy_array__"] is True
    assert (answer["actions"]["dtype"], answer["actions"]["shape"]) == (
        "float32", [HORIZON, ACTIONS]
    )


def test_a_frame_of_several_pictures_is_looked_at_within_the_chunk(package):
    policy, env = RoboTwinPolicy(in_pairs(three_eyed())), TaskEnv(step_lim=2 * HORIZON)
    evaluate(package, policy, env, range(1))
    assert env.looked == [0, HORIZON // 2, HORIZON, HORIZON + HORIZON // 2]
    assert policy.policy.frames == 2


def test_robots_on_two_connections_do_not_touch(package, model, client):
    alone = evaluate(package, RoboTwinPolicy(model, seed=5), TaskEnv(), range(1))[0]
    robots = [(client(), TaskEnv()) for _ in range(2)]
    for number, (robot, env) in enumerate(robots):
        env.setup_demo(3 * number)
        package.reset_model(robot)
    while not robots[0][1].eval_success:
        for robot, env in robots:
            if not env.eval_success:
                package.eval(env, robot, env.get_obs())
    np.testing.assert_array_equal(np.stack(robots[0][1].world.done), alone)


def test_red_and_blue_and_the_cameras_are_as_the_policy_learnt_them(model):
    seen = TaskEnv()
    seen.setup_demo(0)
    views = seen.get_obs()["observation"]
    obs = {"images": {name: views[name]["rgb"] for name in CAMERAS}, "state": np.zeros(PROPRIO)}
    other = {"images": {"l": views["left_camera"]["rgb"][..., ::-1],
                        "r": views["right_camera"]["rgb"][..., ::-1],
                        "h": views["head_camera"]["rgb"][..., ::-1]}, "state": np.zeros(PROPRIO)}
    plain, swapped = RoboTwinPolicy(model), RoboTwinPolicy(model, 0, ["h", "l", "r"], True)
    np.testing.assert_array_equal(
        plain.get_action(obs)["actions"], swapped.get_action(other)["actions"]
    )


@pytest.mark.parametrize(("message", "word"), [
    ({"cmd": "__init__", "obs": None}, "no method '__init__'"),
    ({"cmd": "policy", "obs": None}, "no method"),
    ([1, 2], "no method"),
    ({"cmd": "get_action", "obs": {"images": {}, "state": [0]}}, "no picture of 'head_camera'"),
    ({"cmd": "get_action", "obs": {"images": {"head_camera": {
        "__numpy_array__": True, "data": "AAAA", "dtype": "uint8", "shape": [9, 9]}}}}, "3 bytes"),
    ({"cmd": "get_action", "obs": {"__numpy_array__": True, "data": "", "dtype": "O",
                                   "shape": [0]}}, "send numbers"),
    ({"cmd": "get_action", "obs": {"__numpy_array__": True, "data": "!", "dtype": "f4",
                                   "shape": []}}, "cannot be read"),
])  # fmt: skip
def test_a_wrong_message_is_answered_by_an_error_and_ends_its_connection_alone(
    client, message, word, package
):
    wrong, right = client(), client()
    answer = wrong.raw(json.dumps(message).encode())
    assert word in answer["error"]
    assert wrong.ended()
    assert right.call(func_name="reset_model") is None


def test_a_message_that_is_too_long_is_not_read(client):
    robot = client()
    assert f"at most {LARGEST}" in robot.raw(b"", LARGEST + 1)["error"]
    assert robot.ended()


def test_settings_come_from_the_yml_and_its_overrides(package, model, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    model.save(path)
    policy = package.get_model({
        "checkpoint": None, "ckpt_setting": str(path), "seed": 4, "device": None, "cameras": None,
        "swap_red_blue": False, "task_name": "cover_blocks",
    })  # fmt: skip
    assert (policy.policy.stream.seed, policy.cameras["left_wrist"]) == (4, "left_camera")
    keys = {
        line.partition(":")[0] for line in
        (FOLDER / "Loci" / "deploy_policy.yml").read_text().splitlines() if line[:1].isalpha()
    }
    assert {"checkpoint", "device", "cameras", "swap_red_blue", "policy_name", "seed"} <= keys
    with pytest.raises(LociError, match="one for each, in this order"):
        RoboTwinPolicy(model, cameras=["head_camera"])
    with pytest.raises(LociError, match="no checkpoint"):
        RoboTwinPolicy.from_args({"seed": 1})
    assert main([str(tmp_path / "none.safetensors")]) == 2
    assert "error: no checkpoint at" in capsys.readouterr().err


SCRIPT = """
import argparse, json, sys, time
sys.path.append("./policy")
import Loci
from robotwin_stand_in import ModelClient, TaskEnv, evaluate

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--config", required=True)
parser.add_argument("--overrides", nargs=argparse.REMAINDER)
asked = parser.parse_args()
args = {k.lstrip("-"): v for k, v in zip(asked.overrides[::2], asked.overrides[1::2])}
assert (args["policy_name"], args["ckpt_setting"]) == ("Loci", "mine")
if asked.port is None:
    model = Loci.get_model(args | {"checkpoint": eval(args["checkpoint"])})
else:
    for _ in range(300):
        try:
            model = ModelClient(asked.port)
            break
        except ConnectionError:
            time.sleep(0.2)
done = evaluate(Loci, model, TaskEnv(), range(1))
print(json.dumps(done[0].tolist()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", ["eval.sh", "eval_double_env.sh"])
def test_the_scripts_run_in_a_checkout(script, model, package, tmp_path):
    """The folder copied into a benchmark's tree, whose own scripts are the stand-in's."""
    path = tmp_path / "mine.safetensors"
    model.save(path)
    shutil.copytree(FOLDER / "Loci", tmp_path / "policy" / "Loci")
    (tmp_path / "script").mkdir()
    for name in ("eval_policy.py", "eval_policy_client.py"):
        (tmp_path / "script" / name).write_text(SCRIPT)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    places = (Path(loci.__file__).parents[1], Path(__file__).parents[1])
    done = subprocess.run(
        ["bash", str(tmp_path / "policy" / "Loci" / script), "task", "demo_clean", str(path), "5",
         "0", sys.executable],
        capture_output=True, text=True, timeout=200, check=False, env=os.environ | {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LOCI_DEVICE": "cpu",
            "PYTHONPATH": ":".join(map(str, places)),
        },
    )
    assert done.returncode == 0, done.stderr
    expected = evaluate(package, RoboTwinPolicy(model, seed=5), TaskEnv(), range(1))[0]
    acted = np.array(json.loads(done.stdout.splitlines()[-1]), np.float32)
    np.testing.assert_array_equal(acted, expected)
