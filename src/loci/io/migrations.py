"""Settings of earlier versions, brought to today's form.

Each kind of file has a list of steps, oldest first. A step is a pure function from dict to dict; it
knows the form that it is for and returns any other unchanged, so that all of them may run on
whatever was read. A later version that changes a form adds a step; none is ever taken out.
"""

from __future__ import annotations

import copy
import hashlib
import json
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


MIGRATIONS: dict[str, tuple[Step, ...]] = {
    "run": (nest_run,),
}


def settings_hash(data: Settings) -> str:
    """The hash of settings in the form that they have, today's or an earlier one: what protocols
    of that time call them (`Config.hash`)."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def migrate(kind: str, data: Settings) -> Settings:
    """`data`, the settings of a `kind` of file ("run": of a training), in today's form. A copy."""
    data = copy.deepcopy(data)
    for step in MIGRATIONS.get(kind, ()):
        data = step(data)
    return data
