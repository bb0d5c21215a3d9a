"""An expert at work, undisturbed or disturbed: the demonstrations that policies learn from.

Disturbed, the arms are pushed off the expert's way, and the expert, which looks at the true state
before every chunk, finds what it missed and does it again. What is recorded is what the expert
meant to do, not the perturbation: a policy learns to recover and never to miss. Source: ours; to
disturb what is executed and not what is learnt is DART's idea (Laskey et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loci.config import Config
from loci.errors import LociError, did_you_mean
from loci.worlds.tabletop.arms import ARMS, CAMERAS, JOINTS
from loci.worlds.tabletop.table import CHUNK
from loci.worlds.tabletop.tasks.base import Ask, Cue, task_rng

if TYPE_CHECKING:
    from loci.worlds.tabletop.env import Tabletop

# Seeds of demonstrations count up from here: below it are those that policies are judged on.
TRAINING = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Perturbation(Config):
    """How much the arms are disturbed, all angles in radians.

    jitter: standard deviation of every angle at every step. chance: share of the chunks in which
    the waists are pushed, by `least` to `most` (0.1 is about 5 cm at the fingertips); a push comes
    and goes within its chunk. drift: over the last steps of a chunk the arms leave their way, and
    the next chunk begins there. Every angle is off by a normal number times the chunk's size, which
    is exponential with mean `drift`.
    """

    jitter: float = 0.004
    chance: float = 0.1
    least: float = 0.08
    most: float = 0.18
    drift: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.drift < math.inf:
            raise LociError(
                f"drift {self.drift} is how far arms leave their way, in radians; use 0 or more"
            )

    @classmethod
    def of(cls, steady: bool, drift: float) -> Perturbation:
        """The perturbation of demonstrations: `steady` ones are not pushed."""
        return cls(jitter=0.0, chance=0.0, drift=drift) if steady else cls(drift=drift)


STEADY = Perturbation.of(steady=True, drift=0.0)
# Pictures (N, h, w, 3) of each camera, joints (N, 14), actions (S, 14).
Watched = tuple[list[np.ndarray], np.ndarray, np.ndarray]


def first_episode(seed: int, episodes: int) -> int:
    """The seed of the first of the `episodes` episodes that `seed` stands for.

    Raises LociError where a demonstration may show one of them.
    """
    first = 1000 * seed
    if seed < 0 or first >= TRAINING:
        raise LociError(
            f"seed {seed} is out of range; give 0 to {TRAINING // 1000 - 1}, whose episodes no "
            "demonstration shows"
        )
    if not 1 <= episodes <= TRAINING - first:
        raise LociError(
            f"{episodes} episodes from {first} on; give 1 to {TRAINING - first}: later ones are "
            "those of demonstrations"
        )
    return first


@dataclass(frozen=True, eq=False)
class Move:
    """One control step of a demonstration: the expert's `action` (14,) and what is `executed`."""

    action: np.ndarray
    executed: np.ndarray


def demonstrate(
    env: Tabletop,
    seed: int,
    perturbation: Perturbation = STEADY,
    ask: Ask | None = None,
    cue: Cue | None = None,
) -> Iterator[Move]:
    """Begin episode `seed` and let the expert do the task, to the end of the episode.

    A move is yielded before it is executed: `env.observe()` is then the observation that it answers
    to. The expert knows the cue, or calls `ask` for it; `cue` replaces the episode's own. The same
    arguments give the same moves.
    """
    env.begin(seed, cue)
    rng = task_rng(env.task.type_name or "", seed, "push")
    expert = env.task.expert(env.table, ask or (lambda question: question.would(env.cue)))
    offset = np.zeros((CHUNK, len(ARMS), JOINTS))
    while not env.over:
        step = env.table.state.step % CHUNK
        if step == 0:
            offset = _offsets(rng, perturbation)
        action = next(expert)
        executed = action + offset[step].reshape(-1)
        yield Move(action, executed)
        env.advance(executed)


def watched(
    seed: int, task: str, every: int, cameras: Sequence[str], perturbation: Perturbation
) -> Watched | None:
    """Demonstration `seed` of a task, seen only at every `every`-th step; None where the expert
    failed.

    A recording of the same seed (`loci data record`) sees every step and takes much longer.
    """
    from loci.worlds.tabletop.env import Tabletop

    for name in cameras:
        if name not in CAMERAS:
            raise LociError(f"the tabletop has no camera '{name}'{did_you_mean(name, CAMERAS)}")
    env = Tabletop(task)
    pictures: list[list[np.ndarray]] = [[] for _ in cameras]
    joints, actions = [], []
    for move in demonstrate(env, seed, perturbation):
        if len(actions) % every == 0:
            seen = env.observe()
            joints.append(seen["agent_pos"])
            for name, views in zip(cameras, pictures, strict=True):
                views.append(seen["pixels"][name])
        actions.append(move.action)
    if not env.verdict()["is_success"]:
        return None
    return [np.stack(views) for views in pictures], np.stack(joints), np.stack(actions)


def _offsets(rng: np.random.Generator, size: Perturbation) -> np.ndarray:
    """What is added to the actions of a chunk, (16, 2, 7)."""
    offset = size.jitter * rng.normal(size=(CHUNK, len(ARMS), JOINTS))
    push = rng.uniform(size.least, size.most, len(ARMS)) * rng.choice([-1, 1], len(ARMS))
    happens = rng.random() < size.chance
    # A whole push in the middle of the chunk, where something is taken or let go.
    way = np.clip(np.minimum(np.arange(CHUNK), np.arange(CHUNK)[::-1]) / 4, 0, 1)
    offset[:, :, 0] += happens * way[:, None] * push
    if size.drift:
        # Mostly a little, now and then far; after the steps in which something is pressed or taken.
        far = size.drift * rng.exponential() * rng.normal(size=(len(ARMS), JOINTS))
        offset += far * np.clip((np.arange(CHUNK) - 9) / 6, 0, 1)[:, None, None]
    offset[:, :, -1] = 0.0  # a gripper's opening means something: it is left alone
    return offset
