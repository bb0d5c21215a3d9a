"""LeRobot datasets: what is written is read back, and the files are those of the format.

The expectations about files are facts of huggingface/lerobot at format version v3.0, named where
they stand.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demonstrations import FEATURES, HEAD, PICTURE, episode
from loci.data import lerobot, lerobot_writer
from loci.data.lerobot import Dataset
from loci.data.lerobot_format import DEFAULTS, UNFINISHED, Feature, tasks_table
from loci.data.lerobot_writer import Writer
from loci.errors import LociError

FPS = 10
NUMBERS = {"action": FEATURES["action"], "note": FEATURES["note"]}


def write(folder: Path, lengths: list[int], **options: Any) -> list[dict[str, np.ndarray]]:
    """A dataset of episodes of these lengths, two tasks in turn."""
    episodes = [episode(seed, length) for seed, length in enumerate(lengths)]
    with Writer(folder, FPS, FEATURES, "tabletop", quality="lossless", **options) as writer:
        for number, frames in enumerate(episodes):
            assert writer.add_episode(frames, f"task {number % 2}") == number
    return episodes


def same(dataset: Dataset, episodes: list[dict[str, np.ndarray]]) -> None:
    """The dataset holds these episodes, bit for bit."""
    assert len(dataset) == len(episodes)
    first = 0
    for number, (found, wanted) in enumerate(zip(dataset, episodes, strict=True)):
        length = len(wanted["action"])
        assert len(found) == length
        assert found.task == f"task {number % 2}"
        for name, values in wanted.items():
            seen = found.frames(name) if dataset.features[name].visual else found[name]
            np.testing.assert_array_equal(seen, values, strict=True)
        np.testing.assert_array_equal(found["frame_index"], np.arange(length))
        np.testing.assert_array_equal(found["index"], np.arange(first, first + length))
        np.testing.assert_array_equal(found["episode_index"], np.full(length, number))
        np.testing.assert_array_equal(found["task_index"], np.full(length, number % 2))
        times = (np.arange(length) / FPS).astype(np.float32)
        np.testing.assert_array_equal(found["timestamp"], times, strict=True)
        first += length


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Waiting for the disk is for power cuts, which do not happen here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loci.files.os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets") / "demo"
    write(folder, [5, 1, 12])
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    """A dataset to damage."""
    return Path(shutil.copytree(written, tmp_path / "demo"))


def test_what_is_written_is_read_bit_for_bit(written: Path) -> None:
    dataset = Dataset.open(written)
    same(dataset, [episode(0, 5), episode(1, 1), episode(2, 12)])
    assert dataset.tasks == ("task 0", "task 1")
    assert dataset.fps == FPS
    assert dataset.info.robot_type == "tabletop"
    assert dataset.cameras == (HEAD, PICTURE)
    assert not (written / UNFINISHED).exists()
    same(pickle.loads(pickle.dumps(dataset)), [episode(0, 5), episode(1, 1), episode(2, 12)])


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(1, 3),
    st.sampled_from([1e-6, 0.02, 100]),
    st.sampled_from([1e-6, 0.01, 200]),
)
def test_any_split_into_files_and_chunks(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    chunk: int,
    data: float,
    film: float,
) -> None:
    folder = tmp_path_factory.mktemp("split") / "demo"
    sizes = {"data_files_size_in_mb": data, "video_files_size_in_mb": film}
    episodes = write(folder, lengths, chunks_size=chunk, **sizes)
    dataset = Dataset.open(folder)
    same(dataset, episodes)
    paths = [entry.data.relative_to(folder).as_posix() for entry in dataset.entries]
    if data == 1e-6:
        wanted = [
            f"data/chunk-{n // chunk:03d}/file-{n % chunk:03d}.parquet" for n in range(len(lengths))
        ]
        assert paths == wanted
    if data == 100:
        assert set(paths) == {"data/chunk-000/file-000.parquet"}
    films = {entry.clips[HEAD].path for entry in dataset.entries}
    assert len(films) == (len(lengths) if film == 1e-6 else 1 if film == 200 else len(films))
    there = {p for p in folder.rglob("*") if p.suffix in (".parquet", ".mp4")}
    named = {folder / p for p in paths} | films
    assert there == named | {folder / "meta/tasks.parquet", *folder.glob("meta/episodes/*/*")}


def test_some_frames_are_those_of_all(written: Path) -> None:
    found = Dataset.open(written).episode(2)
    for camera in ("head", HEAD, "picture"):
        whole = found.frames(camera)
        some = [11, 0, 7, 7, -1, -12]
        np.testing.assert_array_equal(found.frames(camera, some), whole[some])
        assert found.frames(camera, []).shape == (0, *whole.shape[1:])
        for outside in (12, -13):
            with pytest.raises(LociError, match=rf"has no frame {outside if outside > 0 else -1}"):
                found.frames(camera, [outside])


def test_an_episode_reads_its_own_row_group_only(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[int]] = []
    real = pq.ParquetFile.read_row_groups

    def watched(self: pq.ParquetFile, groups: list[int], **options: Any) -> pa.Table:
        read.append(list(groups))
        return real(self, groups, **options)

    monkeypatch.setattr(lerobot.pq.ParquetFile, "read_row_groups", watched)
    dataset = Dataset.open(written)
    assert len(dataset.episode(1)["action"]) == 1
    assert len(dataset.episode(2)["action"]) == 12
    assert read == [[1], [2]]


def test_files_of_one_row_group_are_read_too(copied: Path) -> None:
    # convert_dataset_v21_to_v30.py writes the episodes of a file as one pandas frame.
    path = copied / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path), path, write_statistics=False)
    same(Dataset.open(copied), [episode(0, 5), episode(1, 1), episode(2, 12)])


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


def test_appending_is_the_same_as_writing_at_once(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    write(folder, [5])
    for number, length in ((1, 1), (2, 12)):
        with Writer(folder, FPS, FEATURES, "tabletop", quality="lossless") as writer:
            writer.add_episode(episode(number, length), f"task {number % 2}")
    equal(folder, written)


def equal(one: Path, two: Path) -> None:
    """Two datasets hold the same, in files of the same names."""
    names = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*.*")) for f in (one, two)]
    assert names[0] == names[1]
    assert (one / "meta/info.json").read_text() == (two / "meta/info.json").read_text()
    assert (one / "meta/stats.json").read_text() == (two / "meta/stats.json").read_text()
    for name in names[0]:
        if name.endswith(".parquet"):
            assert pq.read_table(one / name).equals(pq.read_table(two / name)), name
        if name.startswith("data/"):
            groups = [pq.read_metadata(f / name).num_row_groups for f in (one, two)]
            assert groups[0] == groups[1]
    for a, b in zip(Dataset.open(one), Dataset.open(two), strict=True):
        for camera in a.dataset.cameras:
            np.testing.assert_array_equal(a.frames(camera), b.frames(camera))


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from demonstrations import FEATURES, episode
from loci.data import lerobot_writer
from loci.data.lerobot_writer import Writer
writes = 0
real = lerobot_writer.atomic_write
def dying(path, *rest, **options):
    global writes
    writes += 1
    if writes == {at}:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        print("now", flush=True)
        import time
        time.sleep(60)
    real(path, *rest, **options)
lerobot_writer.atomic_write = dying
writer = Writer({folder!r}, 10, FEATURES, "tabletop", quality="lossless")
for number, length in enumerate([5, 1, 12]):
    if number >= writer.episodes:
        writer.add_episode(episode(number, length), f"task {{number % 2}}")
"""


def add(writer: Writer, from_: int = 0) -> None:
    """Add the rest of three episodes."""
    own = set(writer.info.features) & set(FEATURES)
    for number in range(from_, 3):
        frames = episode(number, [5, 1, 12][number])
        writer.add_episode({name: frames[name] for name in own}, f"task {number % 2}")


def resumed(writer: Writer, whole: int, reference: Path) -> None:
    """A dataset that was torn has `whole` episodes, and goes on to be the reference."""
    with writer:
        assert writer.episodes == whole
        if whole:
            assert_nothing_beyond(writer.folder, whole)
        add(writer, whole)
    equal(writer.folder, reference)


# The writes of an episode: its video, data, tasks if new, its line, info, statistics.
# Episode 0: 1-6, episode 1: 7-12, episode 2: 13-17.
@pytest.mark.parametrize(("at", "whole"), [(3, 0), (11, 1), (12, 2)])
def test_killed_and_resumed_gives_the_same_dataset(
    at: int, whole: int, written: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    options = {"tests": str(Path(__file__).parent), "folder": str(folder), "at": at}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(**options)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(lerobot.__file__).parents[2])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    if whole:
        same(Dataset.open(folder), [episode(n, [5, 1][n]) for n in range(whole)])
    resumed(Writer(folder, FPS, FEATURES, "tabletop", quality="lossless"), whole, written)


SIZES = {"data_files_size_in_mb": 1e-6, "video_files_size_in_mb": 1e-6, "chunks_size": 2}


@pytest.mark.parametrize("sizes", [{}, SIZES])
def test_stopped_at_any_write_and_resumed(
    sizes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: FEATURES[name] for name in (HEAD, "seed")}
    reference = tmp_path / "reference"
    with Writer(reference, FPS, few, **sizes) as writer:
        add(writer)
    real = lerobot_writer.atomic_write
    for at in range(1, 18):
        writes = 0

        def stopping(*rest: Any, at: int = at, **options: Any) -> None:
            nonlocal writes
            writes += 1
            if writes == at:
                raise KeyboardInterrupt
            real(*rest, **options)

        writer = Writer(tmp_path / f"at{at}", FPS, few, **sizes)
        monkeypatch.setattr(lerobot_writer, "atomic_write", stopping)
        with pytest.raises(KeyboardInterrupt):
            add(writer)
        monkeypatch.setattr(lerobot_writer, "atomic_write", real)
        # As if the process had ended: nothing is put in order.
        writer._lock.release()
        whole = sum(at > info for info in (5, 11, 16))
        resumed(Writer(writer.folder, FPS, few, **sizes), whole, reference)


def assert_nothing_beyond(folder: Path, episodes: int) -> None:
    """Readers that load all files, as lerobot does, find committed episodes only."""
    for part in ("data", "meta/episodes"):
        paths = sorted((folder / part).glob("*/*.parquet"))
        rows = pa.concat_tables(pq.read_table(p, columns=["episode_index"]) for p in paths)
        assert rows.column(0)[-1].as_py() == episodes - 1


def test_a_failing_disk_leaves_the_dataset_as_it_was(
    copied: Path, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, names = lerobot_writer.atomic_write, []

    def failing(path: Path, *rest: Any, **options: Any) -> None:
        names.append(Path(path).name)
        if len(names) == 3:
            raise LociError(f"cannot write {path}: No space left on device; make room")
        real(path, *rest, **options)

    with Writer(copied, FPS, FEATURES, "tabletop", quality="lossless") as writer:
        monkeypatch.setattr(lerobot_writer, "atomic_write", failing)
        with pytest.raises(LociError, match="No space left"):
            writer.add_episode(episode(3, 4), "a new task")
        monkeypatch.undo()
        assert writer.episodes == 3
    assert len(names) == 3
    equal(copied, written)
    assert not (copied / UNFINISHED).exists()


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with (
        Writer(tmp_path / "demo", FPS, NUMBERS) as writer,
        pytest.raises(LociError, match="another process writes"),
    ):
        Writer(writer.folder, FPS, NUMBERS)
    Writer(tmp_path / "demo", FPS, NUMBERS).finish()


BAD_FEATURES = [
    ({}, "holds nothing"),
    ({"index": Feature(dtype="int64", shape=(1,))}, "every dataset's own"),
    ({"a/b": Feature(dtype="int64", shape=(1,))}, "rename it"),
    ({"a": Feature(dtype="flot32", shape=(1,))}, "did you mean 'float32'"),
    ({"a": Feature(dtype="float32", shape=())}, "1 to 5 sizes"),
    ({"a": Feature(dtype="float32", shape=(0,))}, "1 to 5 sizes"),
    ({"a": Feature(dtype="video", shape=(3, 32, 32))}, r"give \(H, W, 3\)"),
]


@pytest.mark.parametrize(("features", "words"), BAD_FEATURES)
def test_unusable_features(features: dict[str, Feature], words: str, tmp_path: Path) -> None:
    with pytest.raises(LociError, match=words):
        Writer(tmp_path / "demo", FPS, features)
    assert not (tmp_path / "demo").exists()


def changed(**changes: Any) -> dict[str, Any]:
    frames: dict[str, Any] = {n: episode(0, 4)[n] for n in NUMBERS} | changes
    return {name: values for name, values in frames.items() if values is not None}


NAN = np.zeros((4, 14), np.float32)
NAN[2, 5] = np.nan
BAD_EPISODES = [
    (changed(action=None), "lacks the feature 'action'"),
    (changed(acton=np.zeros(4)), "unknown feature 'acton' in an episode; did you mean 'action'"),
    (changed(action=np.zeros((4, 13), np.float32)), r"float32 \(4, 13\); give float32 \(T, 14\)"),
    (changed(action=np.zeros((4, 14))), r"float64 \(4, 14\); give float32"),
    (changed(action=np.zeros((3, 14), np.float32)), "'note' has 4 frames, others 3"),
    (changed(action=NAN), "'action' is not finite in frame 2"),
    (changed(note=[1, 2, 3, 4]), "give strings"),
    (changed(action=np.zeros((0, 14), np.float32), note=[]), "0 frames"),
]


@pytest.mark.parametrize(("frames", "words"), BAD_EPISODES)
def test_unusable_episodes(frames: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    with Writer(tmp_path / "demo", FPS, NUMBERS) as writer:
        with pytest.raises(LociError, match=words):
            writer.add_episode(frames, "task")
        with pytest.raises(LociError, match="give the instruction"):
            writer.add_episode(changed(), " ")
        writer.add_episode(changed(), "task")
    assert len(Dataset.open(tmp_path / "demo")) == 1


def test_other_datasets_are_not_appended_to(copied: Path, tmp_path: Path) -> None:
    for fps, features, robot, words in (
        (20, FEATURES, "tabletop", "has fps 10, not 20"),
        (FPS, FEATURES, "so101", "has robot type tabletop, not so101"),
        (FPS, NUMBERS, "tabletop", "has feature '.*head' video"),
    ):
        with pytest.raises(LociError, match=words):
            Writer(copied, fps, features, robot)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    with pytest.raises(LociError, match="holds other files"):
        Writer(tmp_path / "other", FPS, NUMBERS)
    for fps in (0, 7.5, True):
        with pytest.raises(LociError, match="whole frames per second"):
            Writer(tmp_path / "new", fps, NUMBERS)
    with pytest.raises(LociError, match="did you mean 'high'"):
        Writer(tmp_path / "new", FPS, NUMBERS, quality="hihg")


def test_appending_to_what_lerobot_recorded(copied: Path) -> None:
    """Its lines may have integers where ours have floats, and its first files lacked quantiles."""
    path = copied / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    table = table.drop([n for n in table.schema.names if n.rsplit("/")[-1].startswith("q")])
    for name in ("stats/index/min", "stats/index/max"):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.list_(pa.int64())))
    pq.write_table(table, path)
    stats = json.loads((copied / "meta/stats.json").read_text())
    stats = {n: {k: v for k, v in s.items() if not k.startswith("q")} for n, s in stats.items()}
    (copied / "meta/stats.json").write_text(json.dumps(stats))
    info = json.loads((copied / "meta/info.json").read_text())
    (copied / "meta/info.json").write_text(json.dumps(info | {"tools": [{"a": 1}]}))
    with Writer(copied, FPS, FEATURES, "tabletop", quality="lossless") as writer:
        writer.add_episode(episode(3, 4), "task 1")
    same(Dataset.open(copied), [episode(n, length) for n, length in enumerate([5, 1, 12, 4])])
    assert pq.read_table(path).schema.equals(table.schema)
    found = Dataset.open(copied).stats()["action"]
    assert set(found) == {"min", "max", "mean", "std", "count"}
    assert found["count"].tolist() == [22]
    assert json.loads((copied / "meta/info.json").read_text())["tools"] == [{"a": 1}]


def test_tasks_without_a_name_for_their_index(copied: Path) -> None:
    # lerobot before it named the index: pandas calls the column __index_level_0__.
    table = tasks_table(["task 0", "task 1"])
    meta = json.loads(table.schema.metadata[b"pandas"]) | {"index_columns": ["__index_level_0__"]}
    table = table.rename_columns(["task_index", "__index_level_0__"])
    table = table.replace_schema_metadata({"pandas": json.dumps(meta)})
    pq.write_table(table, copied / "meta/tasks.parquet")
    assert Dataset.open(copied).tasks == ("task 0", "task 1")


def rewrite(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (data | changes).items() if v is not None}))


def test_other_versions_are_refused_with_the_way_out(copied: Path, tmp_path: Path) -> None:
    info = copied / "meta/info.json"
    rewrite(info, codebase_version="v2.1")
    with pytest.raises(LociError, match=r"version v2\.1, not v3\.0; convert it: python -m lerobot"):
        Dataset.open(copied)
    rewrite(info, codebase_version="v3.0", storage_format="lance")
    with pytest.raises(LociError, match="stored as 'lance'"):
        Dataset.open(copied)
    rewrite(info, storage_format=None, fps=0)
    with pytest.raises(LociError, match="fps 0"):
        Dataset.open(copied)
    rewrite(info, fps=10, features={"a": {"dtype": "int64"}})
    with pytest.raises(LociError, match=r"feature 'a' .* is unusable"):
        Dataset.open(copied)
    info.write_text("{")
    with pytest.raises(LociError, match="is no JSON"):
        Dataset.open(copied)
    with pytest.raises(LociError, match="is no LeRobot dataset"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("file", ["meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"])
def test_lists_that_cannot_be_read(file: str, copied: Path) -> None:
    path = copied / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LociError, match="is truncated or no such table") as caught:
        Dataset.open(copied)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(LociError, match=r"is missing|does not list the episodes 0 to 2"):
        Dataset.open(copied)


def test_names_that_are_not_there(written: Path) -> None:
    dataset = Dataset.open(written)
    with pytest.raises(LociError, match="has no episode 3; it has 0 to 2"):
        dataset.episode(3)
    with pytest.raises(LociError, match="no camera 'haed'; did you mean 'head'"):
        dataset.episode(0).frames("haed")
    with pytest.raises(LociError, match="no column 'acton'; did you mean 'action'"):
        dataset.episode(0)["acton"]


def test_the_quality_of_frames_when_not_lossless(tmp_path: Path) -> None:
    frames = episode(0, 20)
    with Writer(tmp_path / "demo", FPS, FEATURES) as writer:
        writer.add_episode(frames, "task")
    seen = Dataset.open(tmp_path / "demo").episode(0).frames("head").astype(float)
    assert 0 < np.sqrt(((seen - frames[HEAD]) ** 2).mean()) < 2.5


def test_many_episodes_are_opened_and_read_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with Writer(folder, FPS, NUMBERS) as writer:
        for number in range(20):
            writer.add_episode({n: episode(number, 3)[n] for n in NUMBERS}, "task")
    start = time.perf_counter()
    dataset = Dataset.open(folder)
    for number in (19, 0, 7):
        np.testing.assert_array_equal(
            dataset.episode(number)["action"], episode(number, 3)["action"]
        )
    assert time.perf_counter() - start < 2
    assert dataclasses.asdict(dataset.entries[19])["first"] == 57
