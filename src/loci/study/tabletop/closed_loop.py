"""A policy in closed loop: does it do what it was asked to?

Episodes are seeded, and so is the noise of every act, by (seed, episode, chunk) alone: rows of a
study meet the same cases with the same noise, in any order. Success is latched, with a Wilson
interval. Finished episodes are lines of a file, so that a run that was killed goes on with the
others. Source: ours; the protocol of one hundred seeds is RMBench's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from loci.errors import LociError
from loci.io.files import atomic_write
from loci.io.mosaic import mosaic
from loci.io.pictures import write_video
from loci.models.world_action import WorldActionModel
from loci.seeds import seed_for
from loci.streaming.policy import Policy
from loci.study.estimates import wilson
from loci.worlds.tabletop.demonstration import TRAINING

Observation = Mapping[str, Any]
# Control steps from one picture of a film to the next, and pictures a second.
FILM_EVERY, FILM_FPS = 4, 10


class Environment(Protocol):
    """What an episode is played in. `worlds.tabletop.Tabletop` is one; `Stepped` makes one of any
    other gymnasium environment in the field's convention."""

    def reset(self, *, seed: int | None = None) -> tuple[Observation, dict[str, Any]]: ...

    def advance(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """`step` without what is seen."""
        ...

    def observe(self) -> Observation:
        """{"pixels": {camera: uint8 (H, W, 3)}, "agent_pos": (P,)}."""
        ...


class Stepped:
    """A gymnasium environment whose steps always show something."""

    def __init__(self, env: Any):
        self.env = env
        self._seen: Observation = {}

    def reset(self, *, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        self._seen, info = self.env.reset(seed=seed)
        return self._seen, info

    def advance(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        self._seen, reward, ended, cut, info = self.env.step(action)
        return float(reward), ended, cut, info

    def observe(self) -> Observation:
        return self._seen


@dataclass
class _Robot:
    """One episode in progress, the actions of its last chunk and their pictures."""

    env: Environment
    episode: int
    observation: Observation
    info: dict[str, Any] = field(default_factory=dict)
    views: list[np.ndarray] = field(default_factory=list)
    film: list[np.ndarray] = field(default_factory=list)
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
        robots.append(_Robot(env, episode, observation, info))
    policy, expert = policy or model.policy(len(robots)), model.config.expert
    every = expert.horizon // model.world.codec.images_per_frame
    for robot in robots:
        robot.views.append(_view(robot.observation, model, loop))
        if robot.episode < loop.film:
            _film(robot, loop)
    while awake := [n for n, robot in enumerate(robots) if not robot.over]:
        images = np.stack([np.stack(robots[n].views) for n in awake])
        joints = np.stack([np.asarray(robots[n].observation["agent_pos"]) for n in awake])
        done = [a for n in awake if (a := robots[n].executed) is not None]
        policy.observe(
            torch.from_numpy(images), torch.from_numpy(joints).float(),
            torch.from_numpy(np.stack(done)) if done else None, awake,
        )
        noise = torch.stack([_noise(model, loop, robots[n]) for n in awake])
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
        shown = robot.episode < loop.film and step % FILM_EVERY == 0
        if step % every == 0 or shown:
            robot.observation = robot.env.observe()
        if step % every == 0:
            robot.views.append(_view(robot.observation, model, loop))
        if shown:
            _film(robot, loop)
        if ended or cut:
            robot.over = True
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


def _film(robot: _Robot, loop: Loop) -> None:
    robot.film.append(np.asarray(robot.observation["pixels"][loop.cameras[0]]))


def _noise(model: WorldActionModel, loop: Loop, robot: _Robot) -> torch.Tensor:
    expert = model.config.expert
    draw = torch.Generator().manual_seed(seed_for(loop.seed, "act", robot.episode, robot.chunks))
    return torch.randn(expert.horizon, expert.actions, generator=draw)


def _line(robot: _Robot) -> dict[str, Any]:
    """What there is to say of an episode that ended."""
    info = robot.info
    line: dict[str, Any] = {
        "episode": robot.episode, "success": bool(info.get("is_success")),
        "stages": {name: bool(done) for name, done in (info.get("stages") or {}).items()},
        "failure": str(info.get("failure") or ""), "chunks": robot.chunks,
    }
    return line | ({"film": np.stack(robot.film)} if robot.film else {})


def run_closed_loop(
    model: WorldActionModel,
    make: Callable[[], Environment],
    loop: Loop,
    episodes: int,
    out: str | Path,
    protocol: Mapping[str, Any],
    report: Callable[[int, int, int], None] = lambda done, all_, hits: None,
) -> dict[str, Any]:
    """Run `episodes` episodes, keeping what was done in `out`; the results.

    out/episodes.jsonl holds the protocol and a line an episode, out/videos films of some,
    out/results.json the results. `report` is told how many are done and how many succeeded. Raises
    LociError where `out` holds another run.
    """
    if episodes < 1:
        raise LociError(f"{episodes} episodes; use 1 or more")
    out = Path(out)
    log = out / "episodes.jsonl"
    lines = _read(log, protocol)
    if not log.exists():
        atomic_write(log, json.dumps(dict(protocol)) + "\n")
    done = {line["episode"] for line in lines}
    left = [episode for episode in range(episodes) if episode not in done]
    for start in range(0, len(left), loop.together):
        for line in play(model, make, loop, left[start : start + loop.together]):
            film = line.pop("film", None)
            if film is not None:
                write_video(out / "videos" / f"{line['episode']:03d}.mp4", film, fps=FILM_FPS)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            lines.append(line)
            report(len(lines), episodes, sum(one["success"] for one in lines))
    kept = sorted((one for one in lines if one["episode"] < episodes), key=lambda x: x["episode"])
    results = summarise(kept) | {"protocol": dict(protocol)}
    atomic_write(out / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def read_lines(log: Path) -> list[dict[str, Any]]:
    """What episodes.jsonl holds, the protocol and a line an episode, without what a kill cut short;
    empty where there is none."""
    lines: list[dict[str, Any]] = []
    for text in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _read(log: Path, protocol: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The episodes that a run has finished."""
    if not log.exists():
        return []
    lines = read_lines(log)
    if not lines or lines[0] != json.loads(json.dumps(dict(protocol))):
        raise LociError(f"{log.parent} holds another run; choose another folder or remove it")
    atomic_write(log, "".join(json.dumps(line) + "\n" for line in lines))
    return lines[1:]


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates with 95 % Wilson intervals: success; every stage among all, and among those that had
    reached the stage before; kinds of failure."""
    count = len(lines)

    def rate(hits: int, of: int) -> dict[str, Any]:
        low, high = wilson(hits, of) if of else (0.0, 1.0)
        return {"hits": hits, "of": of, "rate": hits / of if of else None, "lo": low, "hi": high}

    stages: dict[str, Any] = {}
    before = list(lines)
    for name in lines[0]["stages"] if lines else ():
        reached = [line for line in lines if line["stages"].get(name)]
        given = [line for line in before if line["stages"].get(name)]
        stages[name] = {"all": rate(len(reached), count), "given": rate(len(given), len(before))}
        before = reached
    failures = Counter(line["failure"] for line in lines if not line["success"])
    return {
        "episodes": count,
        "success": rate(sum(line["success"] for line in lines), count),
        "stages": stages,
        "failures": dict(failures.most_common()),
        "chunks": float(np.median([line["chunks"] for line in lines])),
    }


def first_episode(seed: int, episodes: int) -> int:
    """The seed of the first of the `episodes` episodes that `seed` stands for.

    Raises LociError where a demonstration may show one of them.
    """
    first = 1000 * seed
    if seed < 0 or first + episodes > TRAINING:
        raise LociError(
            f"seed {seed} is out of range; give 0 to {TRAINING // 1000 - 1}, whose episodes no "
            "demonstration shows"
        )
    return first
