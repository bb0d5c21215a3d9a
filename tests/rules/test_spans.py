"""Spans of tokens, and questions to them."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from loci.rules.rule import Coords
from loci.rules.spans import token_spans

# Frame and kind of neighbouring spans, and their lengths.
PIECES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([-1, 0, 2]), st.integers(1, 4)), min_size=1
)


@given(PIECES, st.data())
def test_spans_are_runs_of_one_frame_and_kind(pieces, draws) -> None:
    places = [(frame, kind) for frame, kind, size in pieces for _ in range(size)]
    frame, kind = torch.tensor(places).unbind(-1)
    found = token_spans(Coords(frame, frame, frame, kind, frame, frame))
    stops = found.starts + found.sizes
    assert stops.tolist() == [*found.starts[1:].tolist(), len(places)]
    for start, stop in zip(found.starts.tolist(), stops.tolist(), strict=True):
        assert len(set(places[start:stop])) == 1
        assert start == 0 or places[start - 1] != places[start]
    assert [*zip(found.coords.frame.tolist(), found.coords.kind.tolist(), strict=True)] == [
        places[start] for start in found.starts.tolist()
    ]
    some = torch.tensor(draws.draw(st.lists(st.booleans(), min_size=len(found),
                                            max_size=len(found))))
    spread = some.repeat_interleave(found.sizes)
    tokens = found.tokens(some)
    assert tokens.tolist() == spread.nonzero()[:, 0].tolist()
    one = len(tokens) > 0 and int(tokens[-1] - tokens[0]) + 1 == len(tokens)
    assert found.slice(some) == ((int(tokens[0]), int(tokens[-1]) + 1) if one else None)
