"""A reader of PLY files of points, by what their head says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NUMBERS = {"float": "<f4", "double": "<f8", "uchar": "<u1", "int": "<i4"}


def read_ply(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The fields of the points, and the comments."""
    head, _, content = path.read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    (count,) = (int(line.split()[-1]) for line in lines if line.startswith("element vertex"))
    kinds = [line.split()[1:] for line in lines if line.startswith("property")]
    points = np.frombuffer(content, [(name, NUMBERS[kind]) for kind, name in kinds])
    assert len(points) == count
    comments = [line.removeprefix("comment ") for line in lines if line.startswith("comment")]
    return {name: points[name] for _, name in kinds}, comments
