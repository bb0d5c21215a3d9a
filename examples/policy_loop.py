"""Put a policy into your own control loop: python examples/policy_loop.py

A policy's checkpoint says what it expects of its robot (`model.config.embodiment`): cameras, the
numbers of state and action with their units, actions a second. Your robot gives its pictures by the
cameras' names and its state in these units; the rest is the policy's. Replace `Robot`, a stand-in
at a simulated table, by yours.
"""

import argparse
import time

import numpy as np

import loci
from loci.worlds.tabletop.env import Tabletop


class Robot:
    """What a control loop needs of a robot."""

    def __init__(self) -> None:
        self.table = Tabletop("put-back-block")
        self.seen, self.info = self.table.reset(seed=0)

    def cameras(self) -> dict[str, np.ndarray]:
        """A picture of each camera, uint8 RGB (H, W, 3)."""
        return self.seen["pixels"]

    def state(self) -> np.ndarray:
        """The joints: radians, and a share for the grippers, 0 closed to 1 open."""
        return self.seen["agent_pos"]

    def move(self, action: np.ndarray) -> np.ndarray:
        """Carry out an action, and return what was carried out: here all of it."""
        self.seen, *_, self.info = self.table.step(action)
        return action


def control(model: loci.WorldActionModel, robot: Robot, chunks: int, rate: float | None) -> None:
    """Observe, act, carry out; `rate` actions a second (None: as fast as possible)."""
    policy, executed = model.policy(), None
    views = [robot.cameras()]
    for chunk in range(chunks):
        pictures = {name: np.stack([view[name] for view in views]) for name in views[0]}
        policy.observe(pictures, robot.state(), executed)
        done, views = [], []
        for number, action in enumerate(policy.act()[0].numpy(), start=1):
            began = time.monotonic()
            done.append(robot.move(action))
            if number % model.steps_per_image == 0:
                views.append(robot.cameras())
            if rate:
                time.sleep(max(0.0, began + 1 / rate - time.monotonic()))
        executed = np.stack(done)
        print(f"chunk {chunk + 1}:", *(s for s, there in robot.info["stages"].items() if there))
        if robot.info["is_success"] or robot.info["failure"]:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a policy into your own control loop.")
    parser.add_argument("--model", default="put-back-block-hybrid", help="a checkpoint")
    parser.add_argument("--chunks", type=int, default=16, help="the most chunks of actions")
    parser.add_argument("--real-time", action="store_true", help="at the policy's rate")
    asked = parser.parse_args()
    model, robot = loci.load(asked.model), Robot()
    wanted = model.config.embodiment
    print(f"cameras {wanted.camera_names}, {wanted.rate:g} actions a second: {wanted.instruction}")
    wanted.check_other(robot.table.embodiment)  # one line of error where the robot does not fit
    control(model, robot, asked.chunks, wanted.rate if asked.real_time else None)
    print("done" if robot.info["is_success"] else robot.info["failure"] or "not finished yet")


if __name__ == "__main__":
    main()
