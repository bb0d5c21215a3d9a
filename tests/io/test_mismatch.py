"""What does not fit between stored tensors and a model: nothing is left out, and it is one line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loci.io.mismatch import NAMED, Mismatch, quoted

NAMES = st.dictionaries(
    st.sampled_from([f"blocks.{n}.weight" for n in range(20)]),
    st.lists(st.integers(1, 3), max_size=2).map(tuple),
)


@given(NAMES, NAMES)
def test_every_tensor_is_accounted_for_once(there, wanted):
    found = Mismatch.between(there, wanted)
    told = [*found.missing, *found.surplus, *(name for name, *_ in found.misshaped)]
    same = [name for name in wanted if there.get(name) == wanted[name]]
    assert sorted([*told, *same]) == sorted({*there, *wanted})
    assert bool(found) == (there != wanted)
    text = str(found)
    assert "\n" not in text
    assert text.count("'") <= 2 * 3 * NAMED
    assert bool(text) == bool(found)
    if len(found.missing) > NAMED:
        assert f"lacks {len(found.missing)} tensors" in text
        assert f"and {len(found.missing) - NAMED} more" in text
    for name, shape, other in found.misshaped[:NAMED]:
        assert f"'{name}' is {shape}, the model wants {other}" in text


def test_names_are_quoted_up_to_a_number():
    assert quoted("abc") == "'a', 'b', 'c'"
    assert quoted("abcdefgh") == "'a', 'b', 'c', 'd', 'e' and 3 more"
