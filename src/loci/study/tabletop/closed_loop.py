"""A policy in closed loop: does it do what it was asked to?

Episodes are seeded, and so is the noise of every act, by (seed, episode, chunk) alone: rows of a
study meet the same cases with the same noise, in any order. Success is latched.
Source: ours; the protocol of one hundred seeds is RMBench's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from loci.errors import LociError
from loci.io.mosaic import mosaic
from loci.models.world_action import WorldActionModel
from loci.seeds import normal
from loci.streaming.policy import Policy
from loci.worlds.environment import Environment, Observation
from loci.worlds.film import FILM_EVERY, Film


@dataclass
class _Robot:
    """One episode in progress, the actions of its last chunk and their pictures."""

    env: Environment
    episode: int
    observation: Observation
    info: dict[str, Any]
    film: Film | None
    views: list[np.ndarray] = field(default_factory=list)
    executed: np.ndarray | None = None
    chunks: int = 0
    over: bool = False


@dataclass(frozen=True)
class Loop:
    """How a policy is run.

    cameras: of the mosaic, the first at the bottom. seed: of the noise. first: seed of the first
    episode's environment; the others follow. steps, temperature: Euler steps and the scale of the
    noise (None: the model's). together: episodes side by side. film: of so many episodes the
    pictures are kept.
    """

    cameras: Sequence[str] = ("head", "left_wrist", "right_wrist")
    seed: int = 0
    first: int = 0
    steps: int | None = None
    temperature: float | None = None
    together: int = 10
    film: int = 0


def play(
    model: WorldActionModel, make: Callable[[], Environment], loop: Loop, episodes: Sequence[int],
    policy: Policy | None = None,
) -> list[dict[str, Any]]:
    """Run episodes side by side to their ends: a line for each, with `film` (T, H, W, 3) of those
    that are filmed. policy: one of the model that has seen nothing, for as many robots (default: a
    new one)."""
    robots = []
    for episode in episodes:
        env = make()
        observation, info = env.reset(seed=loop.first + episode)
        film = Film(getattr(env, "cue", None)) if episode < loop.film else None
        robots.append(_Robot(env, episode, observation, info, film))
    policy, expert = policy or model.policy(len(robots)), model.config.expert
    every = expert.horizon // model.world.codec.images_per_frame
    for robot in robots:
        robot.views.append(_view(robot.observation, model, loop))
        if robot.film is not None:
            robot.film.add(robot.views[0], robot.info, robot.chunks)
    while awake := [n for n, robot in enumerate(robots) if not robot.over]:
        images = np.stack([np.stack(robots[n].views) for n in awake])
        joints = np.stack([np.asarray(robots[n].observation["agent_pos"]) for n in awake])
        done = [a for n in awake if (a := robots[n].executed) is not None]
        policy.observe(
            torch.from_numpy(images), torch.from_numpy(joints).float(),
            torch.from_numpy(np.stack(done)) if done else None, awake,
        )
        noise = torch.stack([
            normal((expert.horizon, expert.actions), loop.seed, "act", r.episode, r.chunks)
            for r in (robots[n] for n in awake)
        ])
        actions = policy.act(noise, loop.steps, awake, loop.temperature).cpu().numpy()
        for n, chunk in zip(awake, actions, strict=True):
            _carry_out(robots[n], chunk, model, loop, every)
    return [_line(robot) for robot in robots]


def _carry_out(
    robot: _Robot, chunk: np.ndarray, model: WorldActionModel, loop: Loop, every: int
) -> None:
    """Execute a chunk, and keep the pictures that the next frame is made of."""
    robot.views, robot.executed = [], chunk
    for step, action in enumerate(chunk, start=1):
        _, ended, cut, robot.info = robot.env.advance(action)
        robot.over = ended or cut
        filmed = robot.film is not None and (step % FILM_EVERY == 0 or robot.over)
        if step % every == 0 or filmed:
            robot.observation = robot.env.observe()
            view = _view(robot.observation, model, loop)
        if step % every == 0:
            robot.views.append(view)
        if robot.film is not None and filmed:
            robot.film.add(view, robot.info, robot.chunks, robot.over)
        if robot.over:
            break
    robot.chunks += 1


def _view(observation: Observation, model: WorldActionModel, loop: Loop) -> np.ndarray:
    """The mosaic (H, W, 3) of what the cameras see; LociError where one is missing."""
    pixels = observation["pixels"]
    missing = [name for name in loop.cameras if name not in pixels]
    if missing:
        raise LociError(
            f"no camera '{missing[0]}' among {', '.join(sorted(pixels))}; name those that there are"
        )
    views = [np.asarray(pixels[name])[None] for name in loop.cameras]
    return mosaic(views, model.config.world.camera)[0]


def _line(robot: _Robot) -> dict[str, Any]:
    """What there is to say of an episode that ended."""
    info = robot.info
    line: dict[str, Any] = {
        "episode": robot.episode, "success": bool(info.get("is_success")),
        "stages": {name: bool(done) for name, done in (info.get("stages") or {}).items()},
        "failure": str(info.get("failure") or ""), "chunks": robot.chunks,
    }
    return line | ({} if robot.film is None else {"film": robot.film.frames()})
