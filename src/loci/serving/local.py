"""A policy in this process, asked as one behind a socket is asked: its service, with one session.

    policy = LocalPolicy(loci.load("put-back-block-hybrid"), seed=7)
    actions = policy.infer({"images": {"head": picture, ...}, "state": joints})["actions"]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loci.models.world_action import WorldActionModel
from loci.serving.control import Control
from loci.serving.options import ServeOptions
from loci.serving.pool import Stream
from loci.serving.robots import RobotService
from loci.serving.service import Call

# One session, for which there is whatever memory the device has.
OPTIONS = ServeOptions(slots=1, frames=None, memory=1e9)


class LocalPolicy:
    """One robot's session with a model: the first calls of `serving.client.Client`.

    seed, episode: what the noise of its actions belongs to, as in `loci eval closed-loop`: the same
    observations get the same actions, to the last bit where that plays its episodes one by one.
    """

    def __init__(self, model: WorldActionModel, seed: int = 0, episode: int = 0):
        self.model, self.stream = model, Stream("local", seed, episode)
        # There is a slot for the only session: none waits in the folder.
        self.service = RobotService(model, OPTIONS, Path(), "local")
        self.control = Control(self.service.pool, {self.stream.name: self.stream}, OPTIONS)

    def reset(
        self, instruction: str | None = None, seed: int | None = None, episode: int | None = None
    ) -> dict[str, Any]:
        """Forget the episode and begin the next one; what is not given stays, and the number of the
        episode goes up by one, or begins at 0 with a new seed. A policy that was trained for one
        task reads no instruction."""
        given = {"instruction": instruction, "seed": seed, "episode": episode}
        return self._control("reset", {k: v for k, v in given.items() if v is not None})

    def infer(self, observation: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Commit an observation and answer with the next chunk: "actions" (n, A), in the robot's
        units.

        observation: "images", of each camera by its name, uint8 RGB (H, W, 3) or several of them
        (m, H, W, 3), and "state" (P,), or other names that a server understands. "executed" (n, A)
        in it or in `more`: the actions that were carried out since the last frame, where the memory
        keeps them. Raises LociError, with nothing changed, where too few pictures are there to make
        a frame, and as `Policy.observe`.
        """
        return self._ask("infer", {**observation, **more})

    def observe(self, observation: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Take in what the cameras see, without acting. A frame is committed once all of its
        pictures are there: `images_per_frame` of the codec, one every `steps_per_image` actions."""
        return self._ask("observe", {**observation, **more})

    def act(self) -> dict[str, Any]:
        """The next chunk for what was seen already."""
        return self._ask("act", {})

    def info(self) -> dict[str, Any]:
        """"frames" that were seen, "seed", "episode", "instruction", "bytes"."""
        return self._control("info", {})

    @property
    def frames(self) -> int:
        """Frames that were committed in this episode."""
        return self.stream.frames

    def _ask(self, op: str, message: Mapping[str, Any]) -> dict[str, Any]:
        (call,) = self.service.read(self.stream, op, message)
        self.service.run([call])
        return _answer(call)

    def _control(self, op: str, message: Mapping[str, Any]) -> dict[str, Any]:
        call = self.control.read(self.stream, op, message)
        self.control.run(call)
        return _answer(call)


def _answer(call: Call) -> dict[str, Any]:
    """What a call was answered; raises its error where there is one."""
    if call.error is not None:
        raise call.error
    return call.answer or {}
