"""Points as a PLY file, which viewers of point clouds open (binary, little-endian).

Format: G. Turk, The PLY Polygon File Format, 1994.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from loci.errors import LociError
from loci.io.files import atomic_write

# Types of numbers, as numpy and as PLY call them.
TYPES = {"f4": "float", "f8": "double", "u1": "uchar", "i4": "int"}


def write_ply(
    path: str | Path, fields: Mapping[str, np.ndarray], comments: Sequence[str] = ()
) -> None:
    """Write points, whole or not at all. fields: name -> a number a point, (M,), as x, y, z, nx,
    ny, nz, red, green and blue are called. Raises LociError for other arrays, and where the file
    cannot be written."""
    counts = {values.shape for values in fields.values()}
    unknown = [v.dtype.str[1:] for v in fields.values() if v.dtype.str[1:] not in TYPES]
    if len(counts) != 1 or len(next(iter(counts))) != 1 or unknown:
        raise LociError(
            f"points with fields of shapes {sorted(counts)}{' and ' * bool(unknown)}"
            f"{', '.join(unknown)}; give one number a point each, as {', '.join(TYPES)}"
        )
    points = np.zeros(
        next(iter(counts)), [(name, f"<{v.dtype.str[1:]}") for name, v in fields.items()]
    )
    for name, values in fields.items():
        points[name] = values
    lines = [
        "ply", "format binary_little_endian 1.0", *(f"comment {text}" for text in comments),
        f"element vertex {len(points)}",
        *(f"property {TYPES[v.dtype.str[1:]]} {name}" for name, v in fields.items()),
        "end_header", "",
    ]
    atomic_write(path, "\n".join(lines).encode() + points.tobytes())
