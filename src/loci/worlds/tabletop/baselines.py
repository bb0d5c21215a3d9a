"""What a task is worth without memory: the expert's control, and answers from less than memory.

- *blind*: the fact is guessed once, at the start; nothing is seen of it.
- *clock-only*: each answer is the one that the expert gave most often at that time.
- *last-frame-only*: each answer is drawn as often as the expert gave it when the current frame
  showed the same, as a policy without memory learns to do.
- *clock and frame*: the most frequent answer at that time when the frame showed the same: the most
  that a policy can know without memory.
- *oracle-state*: the expert.

All but the oracle must be at chance, else the task leaks. Source: ours.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from loci.errors import LociError, did_you_mean
from loci.worlds.tabletop.demonstration import STEADY, TRAINING, Perturbation, demonstrate
from loci.worlds.tabletop.env import Tabletop
from loci.worlds.tabletop.tasks.base import Ask, Question, Task, task_rng

BASELINES = ("blind", "clock-only", "last-frame-only", "clock and frame", "oracle-state")


@dataclass(frozen=True)
class Outcome:
    """How an episode ended."""

    success: bool
    stages: dict[str, bool]
    failure: str
    steps: int


def play(
    env: Tabletop, seed: int, ask: Ask | None = None, perturbation: Perturbation = STEADY
) -> Outcome:
    """The expert's episode `seed` with the answers of `ask` (None: the truth)."""
    for _ in demonstrate(env, seed, perturbation, ask):
        pass
    info = env.verdict()
    return Outcome(info["is_success"], info["stages"], info["failure"], int(env.table.state.step))


def baselines(
    task: Task,
    episodes: int = 100,
    training: int = 200,
    names: Sequence[str] = BASELINES,
    perturbation: Perturbation = STEADY,
    first: int = 0,
) -> dict[str, int]:
    """How many of the episodes first .. first + episodes - 1 each baseline succeeds in.

    `training` is the number of other episodes from which answers are learnt. Raises LociError for
    an unknown baseline and for no episodes.
    """
    for name in names:
        if name not in BASELINES:
            raise LociError(f"unknown baseline '{name}'{did_you_mean(name, BASELINES)}")
    if episodes < 1 or training < 1:
        raise LociError(f"{episodes} episodes after {training}; give 1 or more of each")
    env = Tabletop(task)
    asked = _asked(env, training, perturbation)
    results = {}
    for name in names:
        results[name] = sum(
            play(env, seed, _answerer(env, seed, name, asked), perturbation).success
            for seed in range(first, first + episodes)
        )
    return results


Asked = list[tuple[Question, int]]
# What an answer may depend on, in any baseline that learns.
_KNOWN: dict[str, Callable[[Question], Hashable]] = {
    "clock-only": lambda q: q.chunk,
    "last-frame-only": lambda q: (q.kind, q.seen),
    "clock and frame": lambda q: (q.kind, q.seen, q.chunk),
}


def _asked(env: Tabletop, episodes: int, perturbation: Perturbation) -> Asked:
    """All questions of the training episodes with their true answers."""
    asked: Asked = []

    def ask(question: Question) -> int:
        asked.append((question, question.would(env.cue)))
        return asked[-1][1]

    for seed in range(TRAINING, TRAINING + episodes):
        play(env, seed, ask, perturbation)
    return asked


def _answerer(env: Tabletop, seed: int, name: str, asked: Asked) -> Ask | None:
    """Who answers the expert in episode `seed` of a baseline."""
    rng = task_rng(env.task.type_name or "", seed, name)
    if name == "oracle-state":
        return None
    if name == "blind":
        guess = env.task.draw(rng)
        return lambda question: question.would(guess)
    known = _KNOWN[name]
    counts: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for question, answer in asked:
        counts[known(question)][answer] += 1

    def ask(question: Question) -> int:
        options = question.options
        weights = np.array([counts[known(question)][option] for option in options], float)
        if not weights.any():
            return int(rng.choice(options))
        if name == "last-frame-only":
            return int(rng.choice(options, p=weights / weights.sum()))
        return int(rng.choice(np.array(options)[weights == weights.max()]))

    return ask
