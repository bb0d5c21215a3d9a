"""What memory costs, row beside row in one process: `loci bench`.

Rows are untrained: their cost does not depend on their weights. When they are measured all of them
have seen N frames, and they take turns, so that ratios hold on a busy machine too.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch

from loci.errors import LociError
from loci.io.progress import Progress
from loci.io.timing import graphed, in_turns
from loci.study.estimates import spread
from loci.study.store import Store
from loci.study.suite import Scores, Suite
from loci.training.numerics import cpu_features, pick_device

REPEATS, SEED = 7, 0
# More frames than anybody measures: a day of control steps.
MOST = 100_000


class Row:
    """One stream of a row's model that has seen `written` frames. Each act that is timed is a
    method of its name; of those that are taken together, an act is done `loops` times."""

    model: Any
    written = 0
    loops = 1

    def stand(self, frames: int) -> None:
        """Go on until so many frames were seen."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Look up what the acts that are taken together need."""

    def leave(self) -> None:
        """It was measured at this number of frames."""

    def costs(self) -> dict[str, Any]:
        """What the row holds now."""
        raise NotImplementedError

    def held(self, frames: int) -> tuple[int, int, int]:
        """Tokens and bytes that the memory holds after so many frames, by its plan, and the bytes
        that it then takes."""
        raise NotImplementedError


class Bench(Suite):
    """Rows after numbers of frames. A subclass says what its rows are and what they do.

    acts: what is timed, and what it is; the first is how a frame is seen, timed at the last ones
    before N alone. on_gpu: those that are one CUDA graph there. against: the act to which another
    one is compared, instead of the same act of `floor`, the row that is always measured. together:
    acts whose turns are taken together. warm: whether a turn that does not count comes before those
    in which a frame is seen.
    """

    acts: ClassVar[dict[str, str]]
    floor: ClassVar[str]
    on_gpu: ClassVar[tuple[str, ...]] = ()
    against: ClassVar[dict[str, str]] = {}
    together: ClassVar[tuple[str, ...]] = ()
    compared: ClassVar[dict[tuple[str, str, str], str]] = {}
    warm: ClassVar[bool] = False

    def __init__(
        self, names: Sequence[str] | None, frames: Sequence[int], repeats: int,
        limit: float | None = None,
    ):
        least = 1 + self.warm
        if not frames or min(frames) < least:
            few = f"{least} frame" + "s" * (least > 1)
            raise LociError(f"memory is measured after {few} or more; give --frames 25,100,400")
        if max(frames) > MOST:
            raise LociError(f"{max(frames):,} frames are more than {MOST:,}; give --frames fewer")
        if repeats < 1:
            raise LociError(f"{repeats} repeats measure nothing; give --repeats 1 or more")
        if limit is not None and not limit > 0:
            raise LociError("memory of no bytes holds nothing; give --memory some gigabytes")
        self.name, self.began, self.device = "measuring", time.monotonic(), pick_device()
        names = self.known() if names is None else names
        self.names = list(dict.fromkeys([self.floor, *names]))
        self.repeats, self.limit = repeats, _free(self.device) / 2 if limit is None else limit
        self.conditions = [str(count) for count in sorted(set(frames))]
        self.ratios: dict[str, dict[str, Any]] = {}

    def known(self) -> Sequence[str]:
        """The names of all rows."""
        raise NotImplementedError

    def build(self, name: str) -> Row:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What the protocol says of the model."""
        raise NotImplementedError

    def memory(self, row: Row) -> dict[str, Any]:
        """What the protocol says of a row's memory."""
        raise NotImplementedError

    @cached_property
    def rows(self) -> dict[str, Row]:
        return {name: self.build(name) for name in self.names}

    @property
    def work(self) -> int:
        return len(self.conditions) * len(self.names) * (len(self.acts) + 1)

    def play(self, condition: str, store: Store, progress: Progress) -> dict[str, dict[str, Any]]:
        frames = int(condition)
        here, found = self._fitting(frames)
        alone = min(self.repeats, frames - self.rows[self.floor].written - self.warm)
        for name, row in here.items():
            progress.now(f"{frames} frames, {name}")
            row.stand(frames - alone - self.warm)
            progress.advance()
        times: dict[str, dict[str, list[float]]] = {}
        seen, *others = self.acts
        groups = [[act] for act in others if act not in self.together]
        for acts in [[seen], *groups, *([self.together] if self.together else [])]:
            progress.now(f"{frames} frames, {', '.join(acts)}")
            if acts is self.together:
                for row in here.values():
                    row.prepare()
            turns = {(act, name): getattr(row, act) for name, row in here.items() for act in acts}
            if acts[0] in self.on_gpu:
                turns = {which: graphed(once, self.device) for which, once in turns.items()}
            count, warm = (alone, self.warm) if acts == [seen] else (self.repeats, True)
            for (act, name), taken in in_turns(turns, count, self.device, warm).items():
                loops = here[name].loops if act in self.together else 1
                times.setdefault(act, {})[name] = [each / loops for each in taken]
            progress.advance(len(here) * len(acts))
        for name, row in here.items():
            costs = found[name] = row.costs()
            for act in self.acts:
                base = (times[self.against[act]][name] if act in self.against
                        else times[act][self.floor])
                costs[f"{act}_ms"] = spread(times[act][name])
                costs[f"{act}_ratio"] = _ratio(times[act][name], base)
            row.leave()
        for (act, a, b), target in self.compared.items():
            if a in here and b in here:
                pair = self.ratios.setdefault(f"{act}: {a} / {b}", {"target": target})
                pair[condition] = _ratio(times[act][a], times[act][b])
        return {name: found[name] for name in self.names}

    def _fitting(self, frames: int) -> tuple[dict[str, Row], dict[str, dict[str, Any]]]:
        """The rows whose memories have room together, the smallest first; of the others is noted
        why they are left out."""
        held = {name: row.held(frames) for name, row in self.rows.items()}
        left, limit, here, out = self.limit, self.limit, [], {}
        for name in sorted(self.rows, key=lambda name: held[name][2]):
            tokens, size, wanted = held[name]
            if wanted <= left:
                here.append(name)
                left -= wanted
                continue
            out[name] = {
                "tokens": tokens, "bytes": size,
                "left_out": f"wants {wanted / 1e9:.3g} GB, and {left / 1e9:.3g} GB of "
                f"{limit / 1e9:.3g} GB are left",
            }
        if self.floor not in here:
            raise LociError(
                f"not even {self.floor} fits in {limit / 1e9:.3g} GB; give --memory more gigabytes"
            )
        return {name: self.rows[name] for name in self.names if name in here}, out

    def results(self, scores: Scores, store: Store) -> dict[str, Any]:
        return {
            "protocol": {
                "seed": SEED, "cpu": cpu_features(), "acts": self.acts, "repeats": self.repeats,
                "spread": "medians and quartiles; ratios turn by turn, rows interleaved",
                "rows": {
                    name: {
                        "config": r.model.config.hash(), **self.memory(r),
                        "parameters": sum(p.numel() for p in r.model.parameters()),
                    }
                    for name, r in self.rows.items()
                },
                **self.describe(), "seconds": round(time.monotonic() - self.began, 1),
            },
            "rows": {
                name: {count: scores[count][name] for count in self.conditions}
                for name in self.names
            },
            **({"compared": self.ratios} if self.compared else {}),
        }

    def arithmetic(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        return torch.inference_mode()

    def command(self, options: str = "") -> str:
        return (f"loci bench{options} --rows {','.join(self.names)} --frames "
                f"{','.join(self.conditions)} --repeats {self.repeats}")


def _ratio(mine: Sequence[float], others: Sequence[float]) -> dict[str, float | int]:
    return spread([a / b for a, b in zip(mine, others, strict=True)])


def _free(device: torch.device) -> float:
    """Bytes of memory that nobody uses."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
