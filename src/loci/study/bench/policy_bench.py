"""`loci bench --policy`: what memory costs a robot, mechanism beside mechanism.

The models are those of `policy_sizes.py`, untrained and, but for what a mechanism adds, with the
same weights. A history is not computed: the cache stands as if N frames had been written, in true
slots, with keys and values of noise, which cost as much as any others (`Session.fill`). The last
frames before N are really observed, and timed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from loci.errors import LociError
from loci.io.files import atomic_write
from loci.io.progress import Progress
from loci.models.trunk import TokenStream
from loci.models.world import WorldModel
from loci.models.world_action import WorldActionModel
from loci.rules.rule import Kind
from loci.streaming.policy import Policy
from loci.study.bench.bench import REPEATS, SEED, cell, checked, machine, spread
from loci.study.bench.cost import allocated, graphed, in_turns, milliseconds
from loci.study.bench.policy_sizes import MECHANISMS, WORDS, policy_config
from loci.training.numerics import matmul_precision, pick_device, pick_dtype

FRAMES = (25, 100, 400, 1600, 6400)
# All ratios of rows are to this one: every other remembers the same window, and more.
FLOOR = "window"

# What is timed, and what it is.
ACTS = {
    "observe": "one frame is committed, the last ones before N: a clean pass of the video model",
    "read": "what the next chunk of actions may see is looked up, once an act",
    "step": "one Euler step: the action expert once, against what was read; on a GPU as one CUDA "
    "graph",
    "act": "a chunk of actions: one read and all Euler steps",
    "attention": "what a step's attention does in one layer, once its queries, keys and values are "
    "there",
    "bare": "scaled_dot_product_attention alone, on the same queries, keys and values",
}
# Ratios between two rows in the same turn, and what they should be.
COMPARED = {
    ("observe", "hybrid", "ttt"): "at most 1 up to 400 frames",
    ("observe", "hybrid", "delta"): "at most 1 up to 400 frames",
    ("observe", "tower", "delta"): "at most 1.10 at 6400 frames",
    ("step", "full", "hybrid"): "at least 8 at 400 frames",
}
# A timing of less than this many milliseconds is that of as many calls as fill it.
SHORTEST = 2.0


class Row:
    """A mechanism's model, one robot of it, and the acts that are timed."""

    def __init__(
        self, size: str, name: str, device: torch.device, dtype: torch.dtype,
        weights: WorldActionModel | None,
    ):
        """weights: a model whose transformers this one takes over."""
        torch.manual_seed(SEED)
        self.model = policy_config(size, name).build().eval().to(device, dtype)
        if weights is not None:
            self.model.world.dit, self.model.expert = weights.world.dit, weights.expert
        if size == "paper":
            _goes_all_the_way(self.model.world)
        self.device, self.dtype = device, dtype
        world, dit, expert = self.model.world, self.model.world.config.dit, self.model.config.expert
        draw = torch.Generator().manual_seed(SEED)

        def noise(*shape: int) -> Tensor:
            return torch.randn(1, *shape, generator=draw).to(device, dtype)

        self.latents, self.proprio = noise(1, *world.latent_shape), noise(expert.proprio)
        self.noise = noise(expert.horizon, expert.actions)
        self.text = noise(WORDS, dit.text_dim) if dit.text_dim else None
        shape = (dit.num_heads, expert.horizon, dit.head_dim)
        self.qkv = (noise(*shape), noise(*shape), noise(*shape))
        self.policy: Policy | None = None
        self.loops = 1

    def stand(self, frames: int) -> None:
        """Stand as if this many frames had been observed."""
        self.policy = self.model.policy(capacity=frames + 1).init(self.text)
        self.policy.stream.fill(frames)

    def leave(self) -> None:
        """Forget everything, and give its memory back."""
        self.policy = None
        del self.reading, self.keys, self.values

    def observe(self) -> None:
        self._robot.observe_latents(self.latents, self.proprio)

    def read(self) -> None:
        self.reading = self._robot.read()

    def ready(self) -> None:
        """Read, and take the step once: what is made of its time is made once a reading."""
        self.read()
        self.step()

    def prepare(self) -> None:
        """Find the keys that a step sees, and how many calls make a timing long enough."""
        self.ready()
        cache, (part,) = self._robot.stream.kv, self.reading.evidence.attend.view.parts
        if part.copies is not None:
            raise LociError("a row whose keys are no single slice cannot be compared with one call")
        self.visible = part.stop - part.start + self.qkv[1].shape[2]
        start = cache.pivot + part.start
        seen = slice(start, start + self.visible)
        self.keys, self.values = cache.keys[0][:, :, seen], cache.values[0][:, :, seen]
        self.loops = 1
        self.bare()
        self.loops = max(1, round(SHORTEST / milliseconds(self.bare, self.device)))

    def step(self) -> Tensor:
        return self._robot.denoise(self.reading, self.noise, 0.5)

    def act(self) -> Tensor:
        return self._robot.act(self.noise)

    def attention(self) -> None:
        for _ in range(self.loops):
            self.reading.evidence.attend(0, [self.qkv])

    def bare(self) -> None:
        for _ in range(self.loops):
            F.scaled_dot_product_attention(self.qkv[0], self.keys, self.values)

    def held(self, frames: int) -> tuple[int, int, int]:
        """Tokens and bytes that the memory holds after so many frames, by its plan, and the bytes
        of the buffers for it."""
        world, memory = self.model.world, self.model.world.config.memory
        dit = world.config.dit
        each = 2 * dit.num_layers * dit.dim * self.dtype.itemsize
        tokens = memory.tokens_held(frames, world.tokens)
        stores = world.stores(1)
        carried = sum(store.bytes(0) for store in stores if store.name == "states")
        sizes = {Kind.CLEAN: world.tokens, Kind.GIST: memory.gists}
        room = memory.retention().peak(sizes, frames) + world.tokens
        return tokens, tokens * each + carried, room * each + carried

    @property
    def _robot(self) -> Policy:
        assert self.policy is not None
        return self.policy


def _goes_all_the_way(model: WorldModel) -> None:
    """The last block of a clean pass stops at its keys and values. One block that stands for all of
    a deep model must not."""
    plain = model.clean_stream

    def whole(*arguments: Any) -> TokenStream:
        return replace(plain(*arguments), kv_only=False)

    model.clean_stream = whole


def run_policy_bench(
    size: str,
    names: Sequence[str] | None = None,
    frames: Sequence[int] = FRAMES,
    repeats: int = REPEATS,
    out: str | Path | None = None,
    limit: float | None = None,
) -> dict[str, Any]:
    """Measure mechanisms (all by default; `window` is always among them) at a size of
    `policy_sizes.SIZES`, after each number of frames.

    limit: bytes that the memories of all rows may take together (default: half of what is free);
    beyond it the largest are left out. Returns {protocol, rows: row -> frames -> costs, compared}:
    costs are `tokens` and `bytes` held, `visible` keys of a step, `step_bytes` of tensors that a
    step makes, and for each of `ACTS` `<act>_ms` and `<act>_ratio` (to `window` in the same turn;
    of `attention` to `bare`), each {median, lo, hi, n} with the quartiles; or of a row that was
    left out `tokens` and `bytes` by its plan, and `left_out`, why. compared: "act: a / b" ->
    {target, frames -> ratio}. Raises LociError as `run_bench` does.
    """
    chosen = list(dict.fromkeys([FLOOR, *(MECHANISMS if names is None else names)]))
    for name in chosen:
        policy_config(size, name)
    lengths, device = checked(frames, 2, repeats, out), pick_device()
    dtype = pick_dtype("auto", device)
    limit = free(device) / 2 if limit is None else limit
    began = time.monotonic()
    rows: dict[str, Row] = {}
    measured: dict[str, dict[str, Any]] = {name: {} for name in chosen}
    compared: dict[str, dict[str, Any]] = {}
    with torch.inference_mode(), matmul_precision("exact", device) as precision:
        turns = 1 + 6 * (repeats + 1)
        with Progress("measuring", len(chosen) * (1 + len(lengths) * turns)) as progress:
            for name in chosen:
                progress.now(f"building {name}")
                rows[name] = Row(size, name, device, dtype, rows[FLOOR].model if rows else None)
                progress.advance()
            for count in lengths:
                here = _fitting(rows, count, limit, measured)
                times = _measure(here, count, repeats, device, progress, measured)
                progress.advance((len(rows) - len(here)) * turns)
                for (act, a, b), target in COMPARED.items():
                    if a in here and b in here:
                        found = compared.setdefault(f"{act}: {a} / {b}", {"target": target})
                        found[str(count)] = _ratio(times[act][a], times[act][b])
    first = rows[FLOOR].model
    results = {
        "protocol": {
            "model": f"world-action model, size {size}, untrained",
            "size": size,
            "frames": "latent frames observed by one robot; a control step is one action, "
            f"{first.config.expert.horizon} to a frame",
            "history": "keys and values are noise: their values do not change the cost; slots and "
            "counts are those of a true history; the last frames are really observed",
            "rows": {
                name: {"config": r.model.config.hash(), "memory": r.model.config.world.memory
                       .to_dict(), "parameters": sum(p.numel() for p in r.model.parameters())}
                for name, r in rows.items()
            },
            "acts": ACTS, "repeats": repeats, "ratios": f"to {FLOOR}; of attention to bare",
            "warm_up": "a turn of all rows",
            "spread": "medians and quartiles; ratios turn by turn, rows interleaved",
            "step_bytes": "of tensors that operations return, kernels' own workspace left out",
            "horizon": first.config.expert.horizon, "steps": first.config.steps,
            "tokens_a_frame": first.world.tokens, "limit_bytes": int(limit),
            "dtype": str(dtype).removeprefix("torch."), "matmul": precision, **machine(device),
            "command": f"loci bench --policy {size} --rows {','.join(chosen)} --frames "
            f"{','.join(map(str, lengths))} --repeats {repeats} --memory {limit / 1e9:.3g}",
            "seconds": round(time.monotonic() - began, 1),
        },
        "rows": measured,
        "compared": compared,
    }
    if out is not None:
        atomic_write(out, json.dumps(results, indent=1) + "\n")
    return results


def free(device: torch.device) -> float:
    """Bytes of memory that nobody uses."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _fitting(
    rows: Mapping[str, Row], frames: int, limit: float, measured: dict[str, dict[str, Any]]
) -> dict[str, Row]:
    """The rows whose memories have room together, the smallest first; of the others is noted why
    they are left out."""
    held = {name: row.held(frames) for name, row in rows.items()}
    left, here = limit, []
    for name in sorted(rows, key=lambda name: held[name][2]):
        tokens, size, wanted = held[name]
        if wanted <= left:
            here.append(name)
            left -= wanted
            continue
        measured[name][str(frames)] = {
            "tokens": tokens, "bytes": size,
            "left_out": f"wants {wanted / 1e9:.3g} GB, and {left / 1e9:.3g} GB of "
            f"{limit / 1e9:.3g} GB are left",
        }
    if FLOOR not in here:
        raise LociError(
            f"not even the window fits in {limit / 1e9:.3g} GB; give --memory more gigabytes"
        )
    return {name: rows[name] for name in rows if name in here}


def _measure(
    rows: Mapping[str, Row], frames: int, repeats: int, device: torch.device, progress: Progress,
    measured: dict[str, dict[str, Any]],
) -> dict[str, dict[str, list[float]]]:
    """Fill in what the rows cost after `frames` frames; act -> row -> milliseconds, turn by turn.
    """
    alone = min(repeats, frames - 1)
    for name, row in rows.items():
        progress.now(f"{frames} frames, {name}")
        row.stand(frames - alone - 1)
        progress.advance()
    times: dict[str, dict[str, list[float]]] = {}
    for act in ("observe", "read", "step", "act"):
        progress.now(f"{frames} frames, {act}")
        acts = {name: getattr(row, act) for name, row in rows.items()}
        if act == "step":
            acts = {name: graphed(once, device) for name, once in acts.items()}
        turns = alone if act == "observe" else repeats
        times[act] = in_turns(acts, turns, device, done=progress.advance)
        progress.advance(len(rows) * (repeats - turns))
    progress.now(f"{frames} frames, attention")
    for row in rows.values():
        row.prepare()
    acts = {(name, act): getattr(row, act) for name, row in rows.items()
            for act in ("attention", "bare")}
    for (name, act), taken in in_turns(acts, repeats, device, done=progress.advance).items():
        times.setdefault(act, {})[name] = [each / rows[name].loops for each in taken]
    for name, row in rows.items():
        session = row._robot.stream
        costs: dict[str, Any] = {
            "tokens": session.tokens(), "bytes": session.bytes(), "visible": row.visible,
            "step_bytes": allocated(row.step),
        }
        for act in ACTS:
            floor = times["bare"][name] if act == "attention" else times[act][FLOOR]
            costs[f"{act}_ms"] = spread(times[act][name])
            costs[f"{act}_ratio"] = _ratio(times[act][name], floor)
        measured[name][str(frames)] = costs
        row.leave()
    return times


def _ratio(mine: Sequence[float], others: Sequence[float]) -> dict[str, float | int]:
    return spread([a / b for a, b in zip(mine, others, strict=True)])


def tables(results: Mapping[str, Any], spreads: bool = True) -> list[Table]:
    """The results with rows side by side, a section for each number of frames, and the rows that
    are compared with each other."""
    protocol, rows = results["protocol"], results["rows"]
    what = r"medians \[quartiles]" if spreads else "medians (quartiles: --json)"
    look: dict[str, Any] = {"title_justify": "left", "box": SIMPLE_HEAD,
                            "padding": (0, 1) if spreads else (0, 0)}
    found = Table(
        title=f"size {protocol['size']}: {what} of {protocol['repeats']} turns, "
        f"{protocol['device']}, {protocol['threads']} threads, {protocol['dtype']}; "
        f"{protocol['steps']} steps for {protocol['horizon']} actions", **look,
    )
    headings = ("frames", "row", "tokens", "MB", "observe\nms", "step\nms", f"step, times\n{FLOOR}",
                "act\nms", "attention,\ntimes bare")
    for heading in headings:
        found.add_column(heading, justify="left" if heading == "row" else "right", no_wrap=True)
    for frames in rows[FLOOR]:
        for name, lengths in rows.items():
            costs = lengths[frames]
            start = [frames, name, f"{costs['tokens']:,}", f"{costs['bytes'] / 1e6:,.1f}"]
            if "left_out" in costs:
                found.add_row(*start, "left out")
                continue
            found.add_row(
                *start, cell(costs["observe_ms"], ".1f", spreads),
                cell(costs["step_ms"], ".2f", spreads), cell(costs["step_ratio"], ".2f", spreads),
                cell(costs["act_ms"], ".1f", spreads),
                cell(costs["attention_ratio"], ".2f", spreads),
            )
        found.add_section()
    if not results["compared"]:
        return [found]
    second = Table(title="rows compared, turn by turn", **look)
    for heading in ("", *rows[FLOOR], "target"):
        second.add_column(heading, justify="left" if heading in ("", "target") else "right",
                          no_wrap=heading != "target")
    for what, ratios in results["compared"].items():
        cells = [cell(ratios[n], ".2f", spreads) if n in ratios else "" for n in rows[FLOOR]]
        second.add_row(what, *cells, ratios["target"])
    return [found, second]
