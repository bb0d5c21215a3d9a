"""Rules, what they compile to, and how they draw themselves."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from figures import figure_3
from loci.attention.dense import Dense
from loci.attention.flex import Flex
from loci.errors import LociError
from loci.memory import ROWS, Context, Hybrid
from loci.rules import drawing
from loci.rules.rule import (
    Coords,
    Kind,
    first,
    key,
    past,
    query,
    recent,
    same_group,
)


def test_hybrid_mask_is_the_published_figure():
    memory = Hybrid(anchors=1, window=1, gists_per_frame=1)
    coords = drawing.episode_coords(3, tokens=2, gists=1, actions=1)
    coords = coords[coords.kind != int(Kind.NOISY)]
    assert torch.equal(memory.rule().mask(coords, coords), figure_3())


def test_noisy_targets_see_the_past_and_themselves_never_their_clean_copy():
    memory = Hybrid(anchors=1, window=1, gists_per_frame=1)
    coords = drawing.episode_coords(3, tokens=1, gists=1)
    mask = memory.rule().mask(coords, coords)
    names = drawing.labels(coords)
    seen = {name: {names[k] for k in mask[q].nonzero()[:, 0].tolist()}
            for q, name in enumerate(names)}
    assert seen["n1"] == {"f0", "g0", "n1"}
    assert seen["n2"] == {"f0", "g0", "f1", "g1", "n2"}
    assert not any("n" in k for name in names if name[0] != "n" for k in seen[name])


def test_rules_combine_as_booleans():
    frames = torch.arange(6)
    coords = Coords.grid(frames, (1, 1), Kind.CLEAN, frames, torch.full_like(frames, -1))
    a, b = first(2), recent(2)
    ma, mb = a.mask(coords, coords), b.mask(coords, coords)
    assert torch.equal((a & b).mask(coords, coords), ma & mb)
    assert torch.equal((a | b).mask(coords, coords), ma | mb)
    happened = past.mask(coords, coords)
    assert torch.equal((~a).mask(coords, coords), ~ma & happened)
    assert not (a | ~a).mask(coords, coords._map(lambda f: f * 0 - 1)).any()  # free slots
    assert "first(2)" in repr(a & b)
    assert "recent(2)" in repr(a & b)


def test_full_history_and_window_are_causal_masks():
    coords = drawing.episode_coords(6, tokens=1, gists=0)
    clean = coords[coords.kind == int(Kind.CLEAN)]
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    assert torch.equal(ROWS["full"].rule().mask(clean, clean), causal)
    assert torch.equal(ROWS["window"].rule().mask(clean, clean), causal.triu(-3))
    # A chunk sees what the frame before it saw.
    chunks = coords[coords.kind == int(Kind.NOISY)]
    for name in ("full", "window"):
        seen = ROWS[name].rule().mask(chunks, clean)
        assert torch.equal(seen, ROWS[name].rule().mask(clean, clean)[:-1])


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2), st.integers(1, 3), st.integers(0, 2), st.integers(2, 6))
def test_flex_block_mask_is_the_dense_mask(anchors, window, gists, frames):
    memory = Hybrid(anchors=anchors, window=window, gists_per_frame=gists)
    coords = drawing.episode_coords(frames, tokens=3, gists=gists, chunk=1, actions=2)
    q, k, v = torch.randn(3, 1, 2, len(coords), 8)
    dense = Dense(memory.rule(), [coords])(0, [(q, k, v)])[0]
    flex = Flex(memory.rule(), [coords], coords.frame.device)(0, [(q, k, v)])[0]
    torch.testing.assert_close(dense, flex, atol=1e-5, rtol=1e-5)


def test_flex_sees_retrieved_frames_of_each_stream():
    memory = Context(frames=3)
    selected = torch.zeros(2, 3, 4, dtype=torch.bool)
    selected[0, 2, 1] = selected[1, 2, 2] = True
    coords = drawing.episode_coords(4, tokens=2, gists=0, selected=selected)
    q, k, v = torch.randn(3, 2, 2, len(coords), 8)
    dense = Dense(memory.rule(), [coords])(0, [(q, k, v)])[0]
    flex = Flex(memory.rule(), [coords], coords.frame.device)(0, [(q, k, v)])[0]
    torch.testing.assert_close(dense, flex, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
def test_flex_on_a_gpu_agrees_in_value_and_gradient():
    memory = Hybrid(anchors=1, window=2, gists_per_frame=2)
    coords = drawing.episode_coords(8, tokens=16, gists=2).to("cuda")
    grads = []
    for form in (Dense, Flex):
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, 2, len(coords), 32, device="cuda", requires_grad=True)
                   for _ in range(3))
        attend = form(memory.rule(), [coords], coords.frame.device)
        attend(0, [(q, k, v)])[0].square().sum().backward()
        grads.append((q.grad, k.grad, v.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_a_rule_draws_itself():
    memory = Hybrid(anchors=1, window=1, gists_per_frame=1)
    coords = drawing.episode_coords(3, tokens=1, gists=1)
    mask = memory.rule().mask(coords, coords)
    text = drawing.text(memory.rule(), coords)
    assert text.count("#") == int(mask.sum())
    picture = drawing.svg(memory.rule(), coords, str(memory.to_dict()))
    cells = re.findall(r'x="(\d+)" y="(\d+)" width="(\d+)" height="14" fill="#(?!e)', picture)
    drawn = torch.zeros_like(mask)
    for cell in cells:
        x, y, width = (int(n) // 14 for n in cell)  # the margin is 30: two cells and a bit
        assert not drawn[y - 2, x - 2 : x - 2 + width].any()
        drawn[y - 2, x - 2 : x - 2 + width] = True
    assert torch.equal(drawn, mask)


def test_joint_frames_are_drawn_beside_their_chunk():
    coords = drawing.episode_coords(5, tokens=2, gists=0, chunk=2, beside=(3, 1))
    assert drawing.labels(coords)[10:17] == ["n1", "n1", "n2", "n2", "c0", "c1", "c2"]
    block = torch.ones(7, 7, dtype=torch.bool)
    for name, clean in (("joint-5", False), ("mixture", False), ("learned-4", True)):
        mask = ROWS[name].rule().mask(coords, coords)
        assert torch.equal(mask[10:, 10:], torch.block_diag(block, block))
        # The last frame before each chunk is seen whole where the others are made smaller.
        assert mask[10:17, :10].any(0).tolist() == [clean, clean] + [False] * 8
        assert mask[17:, :10].any(0).tolist() == [False] * 4 + [clean, clean] + [False] * 4


def test_bad_rows_are_refused():
    with pytest.raises(LociError, match="negative"):
        Hybrid(anchors=-1)
    with pytest.raises(LociError, match="present frame"):
        Hybrid(window=0)
    with pytest.raises(LociError, match="K counts the first frame"):
        Context(frames=0)


def test_queries_and_groups():
    coords = drawing.episode_coords(3, tokens=1, gists=0)
    noisy = query(Kind.NOISY) & key(Kind.NOISY) & same_group
    mask = noisy.mask(coords, coords)
    assert int(mask.sum()) == 2  # each of the two chunks sees itself
