"""A block of stored weights, computed by ours and by diffusers' own.

A transformer of one block is made of it: the embeddings, this block and the head. Both get the same
seeded input, in fp32. So names, shapes and the computation are checked at the cost of one block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from loci.errors import LociError
from loci.io.extras import extra
from loci.models.wan import Wan
from loci.models.weights.diffusers import config_to_diffusers, to_diffusers
from loci.models.weights.fill import fill, shapes_of
from loci.models.weights.shards import StoredTensors
from loci.models.weights.wan import open_wan

# Largest difference, as a share of the largest output: fp32 over sums of ten thousand products.
TOLERANCE = 1e-5
_FRAMES, _SIDE, _WORDS = 2, 4, 7
_BLOCK = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True)
class Verified:
    """difference: the largest one; scale: the largest output of diffusers."""

    block: int
    difference: float
    scale: float

    @property
    def same(self) -> bool:
        return self.difference <= TOLERANCE * self.scale


def verify_block(path: str | Path, block: int = 0, seed: int = 0) -> Verified:
    """Compare block number `block` of the transformer at `path`. Only it, the embeddings and the
    head are read. LociError for a block that there is not, and for weights that do not fit."""
    stored, _, config = open_wan(path)
    if config is None:
        raise LociError(f"no config.json beside {path}; fetch it too")
    if not 0 <= block < config.num_layers:
        raise LociError(f"no block {block}; it has blocks 0 to {config.num_layers - 1}")
    one = replace(config, num_layers=1)
    settings = config_to_diffusers(one)
    with extra("wan"):  # imported here: it takes seconds
        from diffusers import WanTransformer3DModel
    with torch.device("meta"):
        ours = Wan(one)
    part = _of_block(stored, block).check(shapes_of(ours))
    fill(ours, part, torch.float32)
    settings.pop("_class_name")
    theirs = WanTransformer3DModel(**settings)
    theirs.load_state_dict({to_diffusers(name): t for name, t in ours.state_dict().items()})
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    frames, rows, cols = one.patch
    latents = drawn(1, _FRAMES * frames, one.in_channels, _SIDE * rows, _SIDE * cols)
    text, time = drawn(1, _WORDS, one.text_dim), torch.rand(1, 1, generator=generator)
    padded = torch.zeros(1, one.text_len, one.text_dim)
    padded[:, :_WORDS] = text
    with torch.no_grad():
        got = ours.eval()(latents, time, ours.encode_text(text, [_WORDS]))
        expected = theirs.eval()(
            latents.transpose(1, 2), 1000 * time[0], padded, return_dict=False
        )[0].transpose(1, 2)
    return Verified(block, float((got - expected).abs().max()), float(expected.abs().max()))


def _of_block(stored: StoredTensors, block: int) -> StoredTensors:
    """What is outside the blocks, and one of them as the first."""

    def wanted(name: str) -> bool:
        found = _BLOCK.match(name)
        return found is None or int(found[1]) == block

    return stored.some(wanted).renamed(lambda name: _BLOCK.sub("blocks.0.", name, count=1))
