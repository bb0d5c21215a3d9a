"""Points that were written are read again, by what PLY says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loci.errors import LociError
from loci.io.ply import write_ply
from ply_file import read_ply


def test_points_are_read_again(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    fields = {
        "x": draw.normal(size=7).astype(np.float32), "y": draw.normal(size=7),
        "red": draw.integers(0, 255, 7, np.uint8), "last_seen": np.arange(7, dtype=np.int32) - 3,
    }
    write_ply(tmp_path / "a.ply", fields, ["metres"])
    found, comments = read_ply(tmp_path / "a.ply")
    assert comments == ["metres"]
    assert list(found) == list(fields)
    for name, values in fields.items():
        assert np.array_equal(found[name], values)
        assert found[name].dtype == values.dtype
    write_ply(tmp_path / "none.ply", {"x": np.zeros(0, np.float32)})
    assert len(read_ply(tmp_path / "none.ply")[0]["x"]) == 0


@pytest.mark.parametrize("fields", [
    {"x": np.zeros(3, np.float32), "y": np.zeros(4, np.float32)}, {"x": np.zeros((3, 2))},
    {"x": np.zeros(3, np.int64)}, {},
])
def test_what_are_no_points_is_refused(fields: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(LociError, match="give one number a point each") as caught:
        write_ply(tmp_path / "a.ply", fields)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
