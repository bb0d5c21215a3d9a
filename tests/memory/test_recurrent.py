"""What a carry is told of its tokens: where they look, in training as in a stream."""

from __future__ import annotations

import pytest
import torch

from loci.attention.rotary import rotate
from loci.memory.base import Memory, together
from loci.memory.recurrent import RecurrentState
from loci.rules.rule import Kind, key, recent
from tiny_world import data, tiny_world


class TurnedSum(RecurrentState):
    """The sum of all tokens, each turned into the world; who reads it turns it into its view."""

    def init(self, batch):
        return {"sum": torch.zeros(batch, 2, 16)}

    def write(self, x, state, at, turn):
        heads = x.flatten(1, 2).unflatten(-1, (2, -1)).transpose(1, 2)
        each = rotate(heads, turn).unflatten(2, x.shape[1:3]).sum(3).cumsum(2)
        return torch.zeros_like(x), [{"sum": state["sum"] + each[:, :, t]} for t in at]

    def read(self, x, state, turn):
        seen = state["sum"][:, :, None].expand(-1, -1, x.shape[1] * x.shape[2], -1)
        return rotate(seen.contiguous(), turn.conj()).transpose(1, 2).reshape(x.shape)


class Turning(Memory):
    """A carry before the first block and one in it."""

    def rule(self):
        return key(Kind.CLEAN) & recent(1) | together

    def carry(self, layer, width, heads, grid):
        return TurnedSum() if layer < 1 else None


@pytest.mark.parametrize("camera", ["rotary", "inject", "none"])
def test_chunks_and_frames_bring_their_own_angles(camera):
    model = tiny_world(Turning(), camera)
    latents, poses = data(model)
    with torch.no_grad():
        noisy, time = latents[:, [[3, 4], [8, 9]]].flip(1), torch.full((2, 2), 0.5)
        packed = model(latents, noisy, time, poses, [3, 8])
        session = model.session(2)
        for group, (before, start) in enumerate(((0, 3), (3, 8))):
            session.write(latents[:, before:start], poses[:, before:start])
            reading = session.read(poses[:, start : start + 2])
            out = session.denoise(reading, noisy[:, group], 0.5)
            torch.testing.assert_close(packed[:, group], out, atol=1e-5, rtol=1e-5)
        # The same chunk, looking somewhere else.
        poses = poses.clone()
        poses[:, 8:10, :3, :3] = poses[:, 8:10, :3, :3].mT
        other = model(latents, noisy, time, poses, [3, 8])[:, 1]
    assert ((other - packed[:, 1]).abs().max() > 1e-3) == (camera != "none")
