"""LeRobot datasets, read: what was written comes back, however it is split into files."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demonstrations import FEATURES, FPS, HEAD, PICTURE, episode, same, write
from loci.data.lerobot import dataset as lerobot
from loci.data.lerobot.dataset import Dataset
from loci.data.lerobot.format import UNFINISHED, tasks_table
from loci.data.lerobot.writer import Writer
from loci.errors import LociError

NUMBERS = {"action": FEATURES["action"], "note": FEATURES["note"]}


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


@pytest.mark.parametrize(("name", "value"), [
    ("chunks_size", 0), ("total_frames", "60"), ("total_episodes", -1), ("total_tasks", 1.5),
])
def test_counts_that_are_none_are_refused(name: str, value: Any, copied: Path) -> None:
    rewrite(copied / "meta/info.json", **{name: value})
    with pytest.raises(LociError, match=rf"has {name} .*; copy the dataset again"):
        Dataset.open(copied)


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


@pytest.mark.parametrize("name", ["length", "dataset_from_index", "data/file_index"])
def test_episodes_whose_lines_lack_a_number(name: str, copied: Path) -> None:
    path = copied / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    empty = pa.nulls(len(table), table.schema.field(name).type)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, empty), path)
    with pytest.raises(LociError, match="is incomplete for episode 0") as caught:
        Dataset.open(copied)
    assert "\n" not in str(caught.value)


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
