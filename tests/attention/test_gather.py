"""The windowed form gathers for blocks of stretches; whatever their size, it is the dense mask."""

from __future__ import annotations

import pytest
import torch

from loci.attention import gather as attention
from loci.memory import ROWS
from tiny_world import tiny_world, walk

FRAMES, CHUNK, BATCH = 23, 2, 2
STARTS = list(range(1, FRAMES, CHUNK))


def results(model, form: str) -> list[torch.Tensor]:
    """The output, and the gradients of frames, chunks and weights."""
    draw = torch.Generator().manual_seed(1)
    shape = model.latent_shape
    latents = torch.randn(BATCH, FRAMES, *shape, generator=draw).requires_grad_()
    noisy = torch.randn(BATCH, len(STARTS), CHUNK, *shape, generator=draw).requires_grad_()
    time = torch.rand(BATCH, len(STARTS), generator=draw)
    model.zero_grad()
    output = model(latents, noisy, time, walk(BATCH, FRAMES), STARTS, attention=form
    )
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    weights = [p.grad for p in model.parameters() if p.grad is not None]
    return [x.detach().clone() for x in (output, latents.grad, noisy.grad, *weights) if x.numel()]


@pytest.fixture
def blocks(monkeypatch) -> list[int]:
    """The sizes of all blocks that attention was computed in."""
    sizes: list[int] = []
    attend = attention._attend

    def told(plan, *rest):
        sizes.extend(group.block for group in plan.groups)
        return attend(plan, *rest)

    monkeypatch.setattr(attention, "_attend", told)
    return sizes


@pytest.mark.parametrize("row", ["context-20", "full", "hybrid", "spatial", "tower", "window"])
def test_blocks_of_any_size_attend_to_the_same(row, blocks, monkeypatch):
    """Those that share all keys and those that share few; with some left over that fill none (11
    chunks, 23 frames); with what each episode retrieved for itself."""
    model = tiny_world(ROWS[row], chunk=CHUNK)
    wanted = results(model, "dense")
    for size in (1, 3, 4, 16):
        monkeypatch.setattr(attention, "BLOCKS", (size,))
        blocks.clear()
        found = results(model, "windowed")
        assert size == max(blocks)
        assert size == 1 or len(set(blocks)) > 1
        for ours, theirs in zip(found, wanted, strict=True):
            scale = max(1.0, float(theirs.abs().max()))
            assert float((ours - theirs).abs().max()) < 1e-5 * scale


def test_blocks_are_what_costs_least(blocks):
    """Frames that see all before them share their keys; chunks that see nothing share none."""
    results(tiny_world(ROWS["full"], chunk=CHUNK), "windowed")
    assert max(blocks) > 1
    blocks.clear()
    results(tiny_world(ROWS["none"], chunk=CHUNK), "windowed")
    assert max(blocks) == 1
