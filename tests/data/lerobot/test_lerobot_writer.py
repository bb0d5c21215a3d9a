"""LeRobot datasets, written: killed, failed, appended to, they stay whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demonstrations import FEATURES, FPS, HEAD, episode, equal, same, write
from loci.data.lerobot import dataset as lerobot
from loci.data.lerobot import writer as lerobot_writer
from loci.data.lerobot.check import check
from loci.data.lerobot.dataset import Dataset
from loci.data.lerobot.format import UNFINISHED, Feature
from loci.data.lerobot.writer import Writer
from loci.errors import LociError

NUMBERS = {"action": FEATURES["action"], "note": FEATURES["note"]}


def test_appending_is_the_same_as_writing_at_once(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    write(folder, [5])
    for number, length in ((1, 1), (2, 12)):
        with Writer(folder, FPS, FEATURES, "tabletop", quality="lossless") as writer:
            writer.add_episode(episode(number, length), f"task {number % 2}")
    equal(folder, written)


def test_a_folder_may_be_named_from_where_one_stands(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("demo"), [5])
    for number, length in ((1, 1), (2, 12)):
        with Writer("demo", FPS, FEATURES, "tabletop", quality="lossless") as writer:
            writer.add_episode(episode(number, length), f"task {number % 2}")
    equal(tmp_path / "demo", written)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from demonstrations import FEATURES, episode
from loci.data.lerobot import writer as lerobot_writer
from loci.data.lerobot.check import check
from loci.data.lerobot.writer import Writer
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
    options = {"tests": str(Path(__file__).parents[2]), "folder": str(folder), "at": at}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(**options)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(lerobot.__file__).parents[4])},
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
        writer._output.close()
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


def test_appending_where_statistics_of_booleans_are_booleans(copied: Path, written: Path) -> None:
    """As other programs write them: the new episode's are cast to the type of the columns."""
    path = copied / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    for key in ("min", "max"):
        name = f"stats/next.done/{key}"
        place = table.schema.get_field_index(name)
        values = [[bool(v) for v in row] for row in table.column(name).to_pylist()]
        table = table.set_column(place, name, pa.array(values, pa.list_(pa.bool_())))
    pq.write_table(table, path)
    stats = json.loads((copied / "meta/stats.json").read_text())
    for key in ("min", "max"):
        stats["next.done"][key] = [bool(v) for v in stats["next.done"][key]]
    (copied / "meta/stats.json").write_text(json.dumps(stats))
    with Writer(copied, FPS, FEATURES, "tabletop", quality="lossless") as writer:
        writer.add_episode(episode(3, 4), "task 1")
    assert pq.read_table(path).schema.equals(table.schema)
    assert pq.read_table(path).column("stats/next.done/max").to_pylist()[-1] == [True]
    found = Dataset.open(copied).stats()["next.done"]
    assert (found["min"].item(), found["max"].item(), found["count"].item()) == (0.0, 1.0, 22)
    assert check(copied).broken == []


@pytest.mark.parametrize("part", ["data", f"videos/{HEAD}"])
def test_a_damaged_dataset_is_not_appended_to(part: str, copied: Path) -> None:
    (path,) = (copied / part).rglob("file-*")
    path.write_bytes(path.read_bytes()[:200])
    words = r"is damaged .*; see loci data check|holds no video"
    with pytest.raises(LociError, match=words) as caught:
        Writer(copied, FPS, FEATURES, "tabletop", quality="lossless")
    assert "\n" not in str(caught.value)
    assert not (copied / UNFINISHED).exists()
