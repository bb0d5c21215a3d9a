"""The files of a LeRobot dataset are those that lerobot writes.

The expectations are facts of huggingface/lerobot, src/lerobot/datasets, at format version v3.0; the
file that each comes from is named beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from demonstrations import FEATURES, HEAD, PICTURE, episode
from loci.data.lerobot.dataset import Dataset
from loci.data.lerobot.format import DEFAULTS


def test_info(written: Path) -> None:
    info = json.loads((written / "meta/info.json").read_text())
    features = info.pop("features")
    # utils.py: DatasetInfo; sizes from its DEFAULT_* constants
    assert info == {
        "codebase_version": "v3.0",
        "fps": 10,
        "total_episodes": 3,
        "total_frames": 18,
        "total_tasks": 2,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "robot_type": "tabletop",
        "splits": {"train": "0:3"},
    }
    # dataset_metadata.py, create: the dataset's own features first; constants.py: DEFAULT_FEATURES
    assert list(features) == [*FEATURES, *DEFAULTS]
    assert features["timestamp"] == {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        assert features[name] == {"dtype": "int64", "shape": [1], "names": None}
    names = [f"j{i}" for i in range(14)]
    assert features["action"] == {"dtype": "float32", "shape": [14], "names": names}
    # video_utils.py: get_video_info
    assert features[HEAD] == {
        "dtype": "video",
        "shape": [32, 48, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": 32,
            "video.width": 48,
            "video.codec": "h264",
            "video.pix_fmt": "gbrp",
            "video.fps": 10,
            "video.channels": 3,
            "is_depth_map": False,
            "has_audio": False,
        },
    }


def test_the_schema_of_the_data(written: Path) -> None:
    file = pq.ParquetFile(written / "data/chunk-000/file-000.parquet")
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    # feature_utils.py: get_hf_features_from_features (Value, fixed Sequence, Array2D, Image)
    assert file.schema_arrow.remove_metadata() == pa.schema(
        {
            PICTURE: image,
            "observation.state": pa.list_(pa.float32(), 14),
            "action": pa.list_(pa.float32(), 14),
            "pose": pa.list_(pa.list_(pa.float64())),
            "next.done": pa.bool_(),
            "note": pa.string(),
            "seed": pa.int64(),
            "timestamp": pa.float32(),
            "frame_index": pa.int64(),
            "episode_index": pa.int64(),
            "index": pa.int64(),
            "task_index": pa.int64(),
        }
    )
    # dataset_writer.py, _save_episode_data: a row group an episode, snappy
    groups = [file.metadata.row_group(g) for g in range(file.num_row_groups)]
    assert [g.num_rows for g in groups] == [5, 1, 12]
    assert {g.column(c).compression for g in groups for c in range(g.num_columns)} == {"SNAPPY"}
    # datasets, arrow_writer.py: what the library finds its own types by
    known = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    number = {"dtype": "float32", "_type": "Value"}
    assert known["action"] == {"feature": number, "length": 14, "_type": "Sequence"}
    assert known["timestamp"] == number
    assert known["next.done"] == {"dtype": "bool", "_type": "Value"}
    assert known["note"] == {"dtype": "string", "_type": "Value"}
    assert known["pose"] == {"shape": [2, 3], "dtype": "float64", "_type": "Array2D"}
    assert known[PICTURE] == {"_type": "Image"}
    assert list(known) == file.schema_arrow.names
    cell = file.read_row_group(2).column(PICTURE)[3].as_py()
    assert cell["bytes"].startswith(b"\x89PNG")
    assert cell["path"] == "frame-000003.png"


def test_the_tasks_are_the_index_of_a_pandas_frame(written: Path) -> None:
    # io_utils.py: write_tasks is DataFrame.to_parquet of {task_index} indexed by "task";
    # the metadata are what pandas 2 and pyarrow write for such a frame.
    table = pq.read_table(written / "meta/tasks.parquet")
    assert table.to_pydict() == {"task_index": [0, 1], "task": ["task 0", "task 1"]}
    assert table.schema.remove_metadata() == pa.schema(
        {"task_index": pa.int64(), "task": pa.string()}
    )
    meta = json.loads(table.schema.metadata[b"pandas"])
    text = {"pandas_type": "unicode", "numpy_type": "object"}
    assert meta["index_columns"] == ["task"]
    assert meta["columns"] == [
        {
            "name": "task_index",
            "field_name": "task_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
            "metadata": None,
        },
        {"name": "task", "field_name": "task", **text, "metadata": None},
    ]
    assert meta["column_indexes"] == [
        {"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}
    ]
    assert set(meta) == {
        "index_columns", "column_indexes", "columns", "attributes", "creator", "pandas_version",
    }  # fmt: skip


def test_the_lines_of_the_episodes(written: Path) -> None:
    table = pq.read_table(written / "meta/episodes/chunk-000/file-000.parquet")
    own = [n for n in table.schema.names if not n.startswith("stats/")]
    # dataset_metadata.py: save_episode, _save_episode_metadata; dataset_writer.py: _save_episode_*
    assert own == [
        "episode_index",
        "tasks",
        "length",
        "data/chunk_index",
        "data/file_index",
        "dataset_from_index",
        "dataset_to_index",
        f"videos/{HEAD}/chunk_index",
        f"videos/{HEAD}/file_index",
        f"videos/{HEAD}/from_timestamp",
        f"videos/{HEAD}/to_timestamp",
        "meta/episodes/chunk_index",
        "meta/episodes/file_index",
    ]
    kinds = {name: table.schema.field(name).type for name in own}
    assert kinds.pop("tasks") == pa.list_(pa.string())
    assert kinds.pop(f"videos/{HEAD}/from_timestamp") == pa.float64()
    assert kinds.pop(f"videos/{HEAD}/to_timestamp") == pa.float64()
    assert set(kinds.values()) == {pa.int64()}
    assert table.select(own).to_pylist()[2] == {
        "episode_index": 2,
        "tasks": ["task 0"],
        "length": 12,
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": 6,
        "dataset_to_index": 18,
        f"videos/{HEAD}/chunk_index": 0,
        f"videos/{HEAD}/file_index": 0,
        f"videos/{HEAD}/from_timestamp": 0.6,
        f"videos/{HEAD}/to_timestamp": 1.8,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }
    names = ["min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"]
    with_stats = [n for n in (*FEATURES, *DEFAULTS) if n != "note"]
    assert {n for n in table.schema.names if n not in own} == {
        f"stats/{feature}/{name}" for feature in with_stats for name in names
    }
    numbers, nested = pa.list_(pa.float64()), pa.list_(pa.list_(pa.list_(pa.float64())))
    assert table.schema.field("stats/action/mean").type == numbers
    assert table.schema.field(f"stats/{HEAD}/mean").type == nested
    assert table.schema.field("stats/action/count").type == pa.list_(pa.int64())


def test_the_statistics_are_those_of_all_episodes(written: Path) -> None:
    stats = Dataset.open(written).stats()
    episodes = [episode(0, 5), episode(1, 1), episode(2, 12)]
    assert set(stats) == {*FEATURES, *DEFAULTS} - {"note"}
    for name in ("action", "observation.state", "seed"):
        values = np.concatenate([e[name] for e in episodes]).astype(np.float64)
        for key in ("min", "max", "mean", "std"):
            wanted = np.atleast_1d(getattr(values, key)(axis=0))
            np.testing.assert_allclose(stats[name][key], wanted, rtol=1e-12, atol=1e-12)
        assert stats[name]["count"].tolist() == [18]
    pixels = np.concatenate([e[HEAD] for e in episodes]) / 255
    np.testing.assert_allclose(stats[HEAD]["mean"].ravel(), pixels.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(stats[HEAD]["std"].ravel(), pixels.std(axis=(0, 1, 2)))
    assert stats[HEAD]["q50"].shape == (3, 1, 1)
