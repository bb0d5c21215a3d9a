"""The data files of a LeRobot v3.0 dataset: an episode is a row group.

Source: huggingface/lerobot, src/lerobot/datasets/dataset_writer.py, version v3.0.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from loci.data.lerobot.format import Feature, data_schema, to_arrow
from loci.io.extras import extra

with extra("data"):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from PIL import Image


def episode_rows(frames: dict[str, np.ndarray], features: dict[str, Feature]) -> pa.Table:
    """The rows of an episode; images become PNG, videos have no column."""
    columns = []
    for name, feature in features.items():
        if feature.dtype == "image":
            cells = np.array([_png(f, i) for i, f in enumerate(frames[name])], object)
            columns.append(to_arrow(cells, feature))
        elif feature.dtype != "video":
            columns.append(to_arrow(frames[name], feature))
    return pa.Table.from_arrays(columns, schema=data_schema(features))


def write_groups(out: Path | io.BytesIO, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """A data file of these row groups."""
    with pq.ParquetWriter(out, schema, compression="snappy", use_dictionary=True) as writer:
        for rows in groups:
            writer.write_table(rows)


def read_groups(path: Path, last: int) -> Iterator[pa.Table]:
    """The row groups of a data file, up to episode `last`."""
    # Mapped and not read ahead: a row group takes one millisecond instead of five.
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, use_threads=False)
            if rows.column("episode_index")[-1].as_py() > last:
                rows = rows.filter(pc.field("episode_index") <= last)
            if len(rows):
                yield rows


def _png(frame: np.ndarray, index: int) -> dict[str, Any]:
    """An image as LeRobot embeds it: its bytes, and the name that its file had."""
    out = io.BytesIO()
    Image.fromarray(frame).save(out, format="PNG")
    return {"bytes": out.getvalue(), "path": f"frame-{index:06d}.png"}
