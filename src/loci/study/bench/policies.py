"""The rows of a policy: what each mechanism costs a robot.

The models are those of `loci.recipes.policy_sizes`, untrained and, but for what a mechanism adds,
with the same weights. A history is not computed: the cache stands as if N frames had been written,
in true slots, with keys and values of noise, which cost as much as any others (`Stream.fill`). The
last frames before N are really observed, and timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loci.errors import LociError
from loci.io.timing import allocated, milliseconds
from loci.models.trunk import TokenStream
from loci.models.world import WorldModel
from loci.models.world_action import WorldActionModel
from loci.recipes.policy_sizes import MECHANISMS, WORDS, policy_config
from loci.rules.rule import Kind
from loci.streaming.policy import Policy
from loci.study.bench.bench import REPEATS, SEED, Bench, Row
from loci.training.numerics import pick_dtype

FRAMES = (25, 100, 400, 1600, 6400)
# A timing of less than this many milliseconds is that of as many calls as fill it.
SHORTEST = 2.0


class PolicyRow(Row):
    """A mechanism's model, and one robot of it."""

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

    def stand(self, frames: int) -> None:
        self.policy = self.model.policy(capacity=frames + 1).init(self.text)
        self.policy.stream.fill(frames)

    def leave(self) -> None:
        self.policy = None
        del self.reading, self.keys, self.values

    def observe(self) -> None:
        self._robot.observe_latents(self.latents, self.proprio)

    def read(self) -> None:
        self.reading = self._robot.read()

    def prepare(self) -> None:
        # The keys that a step sees, and how many calls make a timing long enough. The step is
        # taken once: what is made of its time is made once a reading.
        self.read()
        self.step()
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

    def costs(self) -> dict[str, Any]:
        stream = self._robot.stream
        return {
            "tokens": stream.tokens(), "bytes": stream.bytes(), "visible": self.visible,
            "step_bytes": allocated(self.step),
        }

    def held(self, frames: int) -> tuple[int, int, int]:
        world, memory = self.model.world, self.model.world.config.memory
        dit = world.config.dit
        each = 2 * dit.num_layers * dit.dim * self.dtype.itemsize
        tokens = memory.tokens_held(frames, world.tokens)
        carried = sum(s.bytes(0) for s in world.stores(1) if s.name == "states")
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


class PolicyBench(Bench):
    """Memory mechanisms of a policy of a size of `policy_sizes.SIZES`.

    limit: bytes that the memories of all rows may take together (default: half of what is free);
    beyond it the largest are left out.
    """

    acts = {  # noqa: RUF012 (constants)
        "observe": "one frame is committed, the last ones before N: a clean pass of the video "
        "model",
        "read": "what the next chunk of actions may see is looked up, once an act",
        "step": "one Euler step: the action expert once, against what was read; on a GPU as one "
        "CUDA graph",
        "act": "a chunk of actions: one read and all Euler steps",
        "attention": "what a step's attention does in one layer, once its queries, keys and values "
        "are there",
        "bare": "scaled_dot_product_attention alone, on the same queries, keys and values",
    }
    # All ratios of rows are to this one: every other remembers the same window, and more.
    floor = "window"
    warm = True
    on_gpu = ("step",)
    against = {"attention": "bare"}  # noqa: RUF012
    together = ("attention", "bare")
    # Ratios between two rows in the same turn, and what they should be.
    compared = {  # noqa: RUF012
        ("observe", "hybrid", "ttt"): "at most 1 up to 400 frames",
        ("observe", "hybrid", "delta"): "at most 1 up to 400 frames",
        ("observe", "tower", "delta"): "at most 1.10 at 6400 frames",
        ("step", "full", "hybrid"): "at least 8 at 400 frames",
    }

    def __init__(
        self, size: str, names: Sequence[str] | None = None, frames: Sequence[int] = FRAMES,
        repeats: int = REPEATS, limit: float | None = None,
    ):
        super().__init__(names, frames, repeats, limit)
        self.size, self.dtype = size, pick_dtype("auto", self.device)
        for name in self.names:
            policy_config(size, name)
        self._weights: WorldActionModel | None = None

    def known(self) -> Sequence[str]:
        return MECHANISMS

    def build(self, name: str) -> PolicyRow:
        built = PolicyRow(self.size, name, self.device, self.dtype, self._weights)
        self._weights = self._weights or built.model
        return built

    def memory(self, row: Row) -> dict[str, Any]:
        return {"memory": row.model.config.world.memory.to_dict()}

    def describe(self) -> dict[str, Any]:
        first = self.rows[self.floor].model
        return {
            "model": f"world-action model, size {self.size}, untrained",
            "size": self.size,
            "frames": "latent frames observed by one robot; a control step is one action, "
            f"{first.config.expert.horizon} to a frame",
            "history": "keys and values are noise: their values do not change the cost; slots and "
            "counts are those of a true history; the last frames are really observed",
            "ratios": f"to {self.floor}; of attention to bare",
            "warm_up": "a turn of all rows",
            "step_bytes": "of tensors that operations return, kernels' own workspace left out",
            "horizon": first.config.expert.horizon, "steps": first.config.steps,
            "tokens_a_frame": first.world.tokens, "limit_bytes": int(self.limit),
            "dtype": str(self.dtype).removeprefix("torch."),
            "command": self.command(f" --policy {self.size}") + f" --memory {self.limit / 1e9:.3g}",
        }
