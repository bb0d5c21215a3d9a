"""A policy as RoboTwin and RMBench call one: what `policy/NAME/deploy_policy.py` builds.

The benchmark's process calls methods by name, in its own process or over a socket, so that
everything that an episode needs is kept here and `deploy_policy.py` keeps nothing. Source of the
contract: RMBench's script/eval_policy.py and eval_policy_client.py (commit 57ee09c, April 2026),
which are RoboTwin 2.0's before it moved to XPolicyLab.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from loci.errors import LociError, did_you_mean
from loci.models.load import load
from loci.models.world_action import WorldActionModel
from loci.serving.local import LocalPolicy

# RoboTwin's cameras, in the order of a policy's own: head, left wrist, right wrist.
CAMERAS = ("head_camera", "left_camera", "right_camera")
METHODS = ("reset_model", "get_action", "update_obs")


class RoboTwinPolicy:
    """One robot's session. Episodes are counted from 0: the noise of the actions belongs to the
    seed and the episode.

    cameras: RoboTwin's name for each of the policy's cameras, in the policy's order (None: as
    `CAMERAS`). swap_red_blue: the policy learnt from pictures whose red and blue were exchanged, as
    they are where RoboTwin's recorded JPEGs are read by anything but OpenCV. Raises LociError for a
    policy without known cameras.
    """

    def __init__(
        self, model: WorldActionModel, seed: int = 0, cameras: Sequence[str] | None = None,
        swap_red_blue: bool = False,
    ):
        embodiment = model.config.embodiment
        if embodiment is None:
            raise LociError("this policy does not know its robot's cameras: set model.embodiment")
        own = embodiment.camera_names
        cameras = CAMERAS[: len(own)] if cameras is None else tuple(cameras)
        if len(cameras) != len(own):
            raise LociError(
                f"cameras {', '.join(cameras)} for a policy that sees by {', '.join(own)}; give "
                "one for each, in this order"
            )
        self.cameras = dict(zip(own, cameras, strict=True))
        self.swap_red_blue = swap_red_blue
        self.policy = LocalPolicy(model, seed, episode=-1)
        self._sent: np.ndarray | None = None

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """From the settings of `deploy_policy.yml` and its overrides: "checkpoint" (otherwise
        "ckpt_setting"), a file or the name of one that ships, "seed", "device", "cameras",
        "swap_red_blue"."""
        path = args.get("checkpoint") or args.get("ckpt_setting")
        if not path:
            raise LociError("no checkpoint; give one as --checkpoint or --ckpt_setting")
        model = load(path)
        if not isinstance(model, WorldActionModel):
            raise LociError(f"{path} holds a world model; give a policy")
        model.to(args.get("device") or "cpu")
        return cls(
            model, int(args.get("seed") or 0), args.get("cameras"),
            bool(args.get("swap_red_blue")),
        )

    def reset_model(self) -> None:
        """The next episode begins."""
        self.policy.reset()
        self._sent = None

    def get_action(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        """Commit what the robot sees and answer with "actions" (n, A), all of which are to be
        carried out, and "look": the numbers of actions after which `update_obs` is to be called.

        obs: "images", by RoboTwin's names of the cameras, uint8 RGB (H, W, 3), "state", the joint
        vector, and "instruction". Raises LociError for what the policy cannot use.
        """
        seen = self._seen(obs)
        if self.policy.model.history and self._sent is not None:
            seen["executed"] = self._sent
        self._sent = self.policy.infer(seen)["actions"]
        every, horizon = self.policy.model.steps_per_image, len(self._sent)
        return {"actions": self._sent, "look": list(range(every, horizon, every))}

    def update_obs(self, obs: Mapping[str, Any]) -> None:
        """Take in what the robot sees in the middle of a chunk."""
        self.policy.observe(self._seen(obs))

    def _seen(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        images = {}
        for own, name in self.cameras.items():
            if name not in obs["images"]:
                raise LociError(
                    f"no picture of '{name}'; switch it on in the task's configuration, or name "
                    f"another one in `cameras`{did_you_mean(name, obs['images'])}"
                )
            picture = np.asarray(obs["images"][name])
            images[own] = picture[..., ::-1] if self.swap_red_blue else picture
        state = np.asarray(obs["state"], np.float64)
        return {"images": images, "state": state, "instruction": obs.get("instruction")}
