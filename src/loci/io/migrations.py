"""Settings of earlier versions, brought to today's form.

Each kind of file has a list of steps, oldest first. A step is a pure function from dict to dict; it
knows the form that it is for and returns any other unchanged, so that all of them may run on
whatever was read. A later version that changes a form adds a step; none is ever taken out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Settings = dict[str, Any]
Step = Callable[[Settings], Settings]


def nest_run(old: Settings) -> Settings:
    """Runs of 0.1 as they were first: a type for each combination of features, and flat settings.

    `returning-world` becomes an objective, `begun-policy` an init; where data come from and how
    they are changed become parts of their own.
    """
    if old.get("type") in ("world", "returning-world") and "codec" in old:
        return _nest_world(old)
    if old.get("type") in ("policy", "begun-policy") and "augmentation" not in old:
        return _nest_policy(old)
    return old


def _nest_world(old: Settings) -> Settings:
    return {
        "type": "world",
        "world": old["world"],
        # The camera of the episodes had to be the model's.
        "data": {
            "type": "rooms", "episodes": old.get("episodes", 3000), "length": old.get("length", 65),
        },
        "init": _init(codec={"path": "codec", "digest": old["codec"]}),
        "objective": {
            "revisit": old.get("weight", 1.0) if old["type"] == "returning-world" else 0.0,
        },
        "augmentation": {"clean_noise": old.get("clean_noise", 0.0)},
        "batch": old.get("batch", 4),
        "stride": 1,
        "attention": old.get("attention", "windowed"),
        "train": old["train"],
    }


def _nest_policy(old: Settings) -> Settings:
    init = _init()
    if old["type"] == "begun-policy":
        codec = old.get("codec")
        init = _init(
            weights={"path": old["start"], "digest": old["weights"]},
            codec=None if codec is None else {"path": codec, "digest": None},
        )
    return {
        "type": "policy",
        "model": old["model"],
        "data": _source(old["data"]),
        "init": init,
        "objective": {
            "actions": old.get("actions", 1.0),
            "video": old.get("video", 1.0),
            "video_frames": old.get("ahead"),
        },
        "augmentation": {
            "clean_noise": old.get("clean_noise", 0.0),
            "pause_chance": old.get("pause", 0.0),
            "pause_frames": old.get("longest", 24),
            "pause_share": old.get("paused", 1.0),
            "lead_frames": old.get("lead", 0),
            "linger_frames": old.get("linger", 0),
            "windows": old.get("windows", []),
        },
        "batch": old.get("batch", 8),
        "draws": old.get("draws", 2),
        "buckets": old.get("alike", 1),
        "attention": old.get("attention", "windowed"),
        "recompute": old.get("recompute", False),
        "train": old["train"],
    }


def _source(old: Settings) -> Settings:
    """Demonstrations came from a folder or from a task; now each is a source of its own."""
    cameras = old.get("cameras", ["head", "left_wrist", "right_wrist"])
    if old.get("folder") is not None:
        return {
            "type": "lerobot", "folder": old["folder"], "episodes": old.get("episodes"),
            "cameras": cameras, "poses": None,
        }
    drift = {"drift": old["drift"]} if old.get("drift") else {}
    return {
        "type": "tabletop", "task": old["task"], "episodes": old["episodes"],
        "steady": old.get("steady", False), "cameras": cameras, **drift,
    }


def _init(weights: Settings | None = None, codec: Settings | None = None) -> Settings:
    return {"weights": weights, "codec": codec, "trains": ["*"]}


TABLETOP_CAMERAS = ("head", "left_wrist", "right_wrist")
# The policies that ship with 0.1, by the hashes of their runs, and their task's instruction.
SHIPPED_POLICIES = {
    "fd0f39c35214": "Move the block to the white mat in the centre, press the button, wait for the "
    "green lamp, and put the block back on the mat where it was.",
    "bc0d4f703710": "Cover the blocks with the lids from left to right, wait for the green lamp, "
    "and uncover the red, the green and the blue block in this order.",
    "355eeee57e98": "Press the left button as often as the left card says, then the middle button "
    "as often as the middle card says, each time when the lamp is green; then press the right "
    "button.",
}


def name_robot(old: Settings) -> Settings:
    """Policies of 0.1 as they were first kept the cameras in the notes on their training, or not
    at all, where they were the tabletop's; the rest of the robot was in nobody's file."""
    config, notes = old["config"], old["training"]
    if "embodiment" in config:
        return old
    names = notes.get("cameras", TABLETOP_CAMERAS)
    robot: Settings = {"cameras": [{"name": name} for name in names]}
    run = notes.get("protocol", {}).get("config")
    if run in SHIPPED_POLICIES:
        joints = [f"{arm}_{joint}" for arm in ("left", "right")
                  for joint in (1, 2, 3, 4, 5, 6, "gripper")]
        vector = {"names": joints, "units": (["rad"] * 6 + ["1"]) * 2}
        sizes = {"head": (64, 80), "left_wrist": (32, 40), "right_wrist": (32, 40)}
        robot = {
            "cameras": [
                {"name": name, "height": sizes[name][0], "width": sizes[name][1]} for name in names
            ],
            "state": vector, "actions": vector, "rate": 20.0,
            "instructions": [SHIPPED_POLICIES[run]],
        }
    return {**old, "config": {**config, "embodiment": robot}}


def leave_robot_to_data(old: Settings) -> Settings:
    """Runs of 0.1 as they were first knew no robot: training takes it from the data."""
    if old.get("type") != "policy" or "embodiment" in old["model"]:
        return old
    return {**old, "model": {**old["model"], "embodiment": None}}


MIGRATIONS: dict[str, tuple[Step, ...]] = {
    "run": (nest_run, leave_robot_to_data),
    "world-action-model": (name_robot,),
}


def migrate(kind: str, data: Settings) -> Settings:
    """What a file of a `kind` says, in today's form; a copy.

    "run": the settings of a training. Kinds of checkpoints: its `config`, and the notes on its
    `training`.
    """
    data = copy.deepcopy(data)
    for step in MIGRATIONS.get(kind, ()):
        data = step(data)
    return data
