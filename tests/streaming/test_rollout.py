"""A video is generated chunk by chunk, each written before the next is made."""

from __future__ import annotations

import pytest
import torch

from loci.errors import LociError
from loci.memory import ROWS
from loci.streaming.rollout import roll_out
from tiny_world import tiny_world


def test_every_chunk_is_written_before_the_next_is_made() -> None:
    model = tiny_world(ROWS["context-5"], chunk=2)
    poses = torch.eye(4, dtype=torch.float64).repeat(1, 7, 1, 1)
    poses[0, :, 0, 3] = torch.linspace(0, 1, 7)
    first = torch.randn(1, 1, *model.latent_shape)
    noises = [torch.randn(1, 2, *model.latent_shape) for _ in range(3)]
    session, by_hand = model.session(1), model.session(1)
    session.write(first, poses[:, :1])
    made = torch.cat(list(roll_out(session, poses[:, 1:], 2, noises.__getitem__)), dim=1)
    by_hand.write(first, poses[:, :1])
    for number, noise in enumerate(noises):
        where = poses[:, 1 + 2 * number : 3 + 2 * number]
        chunk = by_hand.generate(where, noise)
        assert torch.equal(made[:, 2 * number : 2 * number + 2], chunk)
        by_hand.write(chunk, where)
    assert session.tokens() == by_hand.tokens() > 0


def test_a_part_of_a_chunk_is_refused_before_anything_is_written() -> None:
    model = tiny_world(ROWS["none"], chunk=2)
    session = model.session(1)
    poses = torch.eye(4, dtype=torch.float64).repeat(1, 3, 1, 1)
    with pytest.raises(LociError, match="3 frames are no whole number of chunks of 2"):
        next(roll_out(session, poses, 2, lambda number: torch.empty(0)))
    assert session.tokens() == 0
