"""`loci data check`: every damage has its line, a whole dataset none, nothing is changed."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from demonstrations import FEATURES, HEAD, PICTURE, episode
from loci.commands import main as cli
from loci.commands.data import read_expected
from loci.data.lerobot.check import Expected, check
from loci.data.lerobot.dataset import Dataset
from loci.data.lerobot.writer import Writer
from loci.errors import LociError
from loci.io import video
from loci.memory import ROWS
from loci.recipes.tabletop import tabletop

RECORDED = Path(__file__).parents[2] / "results/wam/training/press-button-full/config.json"
DATA = "data/chunk-000/file-000.parquet"
LINES = "meta/episodes/chunk-000/file-000.parquet"
FILM = f"videos/{HEAD}/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets") / "demo"
    with Writer(folder, 10, FEATURES, "tabletop") as writer:
        for number, length in enumerate([20, 7, 33]):
            writer.add_episode(episode(number, length), f"task {number % 2}")
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "demo"))


def fingerprint(folder: Path) -> dict[str, str]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_dataset_has_nothing_broken(quick: bool, written: Path) -> None:
    before = fingerprint(written)
    found = check(written, quick=quick)
    assert (found.broken, found.notes) == ([], [])
    assert fingerprint(written) == before
    lines = found.lines()
    assert lines[0].endswith("demo: 3 episodes, 60 frames, 10 a second (6 s), tabletop")
    assert lines[-3:] == [
        "  task 0: task 0",
        "  task 1: task 1",
        "whole: every episode can be read",
    ]
    assert any(line.split() == [HEAD, "video", "32", "x", "48", "x", "3", "h264"] for line in lines)


def column(name: str, change: Callable[[np.ndarray], None], path: str = DATA) -> Any:
    """Damage that changes the numbers of a column of the whole file."""

    def damage(folder: Path) -> None:
        table = pq.read_table(folder / path)
        place = table.schema.get_field_index(name)
        kind = table.schema.field(name).type
        values = table.column(name).combine_chunks()
        fixed = pa.types.is_fixed_size_list(kind)
        numbers = (values.flatten() if fixed else values).to_numpy().copy()
        change(numbers.reshape(len(table), -1))
        new = pa.array(numbers)
        new = pa.FixedSizeListArray.from_arrays(new, kind.list_size) if fixed else new
        pq.write_table(table.set_column(place, name, new), folder / path, row_group_size=5)

    return damage


def set_at(row: int, value: float, at: int = 0) -> Callable[[np.ndarray], None]:
    def change(numbers: np.ndarray) -> None:
        numbers[row, at] = value

    return change


def without(name: str, path: str = DATA) -> Any:
    def damage(folder: Path) -> None:
        pq.write_table(pq.read_table(folder / path).drop([name]), folder / path)

    return damage


def cut(path: str, part: float) -> Any:
    def damage(folder: Path) -> None:
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: int(len(content) * part)])

    return damage


def gone(path: str) -> Any:
    return lambda folder: (folder / path).unlink()


def rows(folder: Path) -> None:
    table = pq.read_table(folder / DATA)
    pq.write_table(table.slice(0, 57), folder / DATA)


def late(folder: Path) -> None:
    """A timestamp that is off within float32's rounding, and one that is wrong."""
    column("timestamp", set_at(31, 0.4001002))(folder)  # frame 4 of episode 2
    column("timestamp", set_at(47, 2.1))(folder)


def zeroed(folder: Path) -> None:
    """A hole in the middle of a video whose size and header stay as they were."""
    content = bytearray((folder / FILM).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    (folder / FILM).write_bytes(content)


def declared(height: int, width: int) -> Any:
    def damage(folder: Path) -> None:
        path = folder / "meta/info.json"
        data = json.loads(path.read_text())
        data["features"][HEAD]["shape"] = [height, width, 3]
        path.write_text(json.dumps(data))

    return damage


def dtype(name: str, kind: str) -> Any:
    def damage(folder: Path) -> None:
        path = folder / "meta/info.json"
        data = json.loads(path.read_text())
        data["features"][name]["dtype"] = kind
        path.write_text(json.dumps(data))

    return damage


def frames(folder: Path) -> None:
    video.join([(folder / FILM, 50)], 10, folder / "short.mp4")
    (folder / "short.mp4").rename(folder / FILM)


def small(folder: Path) -> None:
    (folder / FILM).write_bytes(video.encode(np.zeros((60, 16, 16, 3), np.uint8), 10))


def stats(name: str, key: str, value: Any) -> Any:
    def damage(folder: Path) -> None:
        path = folder / "meta/stats.json"
        data = json.loads(path.read_text())
        if key == "all":
            del data[name]
        elif value is None:
            del data[name][key]
        else:
            data[name][key] = value
        path.write_text(json.dumps(data))

    return damage


def info(**changes: Any) -> Any:
    def damage(folder: Path) -> None:
        path = folder / "meta/info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


WIDE = [5.0] * 14
DAMAGES = [
    (cut(DATA, 0.5), [rf"episode {n}: .*{DATA} is truncated" for n in range(3)]),
    (gone(DATA), [rf"episode {n}: .*{DATA} is missing" for n in range(3)]),
    (without("action"), [rf"episode {n}: .* lacks the column 'action'" for n in range(3)]),
    (rows, [r"episode 2: .* has 30 rows of episode 2, which has 33 frames"]),
    (
        column("action", set_at(22, np.nan, 3)),
        ["episode 1: 'action' is NaN or infinite in 1 frames, first in 2"],
    ),
    (
        column("observation.state", set_at(19, np.inf)),
        [r"episode 0: 'observation\.state' is NaN or infinite in 1 frames, first in 19"],
    ),
    (column("frame_index", set_at(24, 9)), ["episode 1: 'frame_index' has a gap at frame 4"]),
    (column("index", set_at(30, 31)), ["episode 2: 'index' has a gap at frame 3"]),
    (
        column("timestamp", set_at(5, 0.505)),
        ["episode 0: 'timestamp' is not 5 / 10 s at frame 5"],
    ),
    (
        column("task_index", set_at(5, 7)),
        ["episode 0: 'task_index' names tasks"],
    ),
    (
        column("dataset_from_index", set_at(1, 21), LINES),
        ["episode 1 begins at frame 21 of all, not 20", "episode 2 begins", "episode 1: 'index'"],
    ),
    (
        column(f"videos/{HEAD}/to_timestamp", set_at(1, 2.2), LINES),
        [r"episode 1: its video .* takes 0\.2 s"],
    ),
    (cut(FILM, 0.4), [rf"'{HEAD}' of episodes 0, 1, 2: .* is truncated|has \d+ of its"]),
    (gone(FILM), [rf"'{HEAD}' of episodes 0, 1, 2: .*{FILM} is missing"]),
    (frames, [rf"episode 2: {FILM} has 23 of its 33 frames, none for frame 23"]),
    (small, [rf"{FILM} is 16 x 16, not 32 x 48 as info\.json says"]),
    (gone("meta/stats.json"), [r"meta/stats\.json is missing"]),
    (stats("action", "all", None), [r"meta/stats\.json lacks 'action'"]),
    (stats("action", "std", None), [r"meta/stats\.json lacks std of 'action'"]),
    (stats("action", "count", [61]), ["'action' counts 61 frames of 60"]),
    (stats("action", "count", [30, 30]), ["'action' has a count of 2 numbers"]),
    (
        column("length", set_at(1, 0), LINES),
        ["episode 1 has 0 frames", "the episodes have 53", "episode 2 begins at frame 27"],
    ),
    (stats("action", "mean", WIDE), [r"'action' has mean\[0\] 5; recomputed -1\.\d+"]),
    (stats("action", "std", WIDE), [r"'action' has std\[0\] 5; recomputed"]),
    (stats("action", "max", WIDE), [r"'action' has max\[0\] 5; recomputed"]),
    (stats("action", "q99", WIDE), [r"'action' has q99\[0\] 5; recomputed .* to"]),
    (stats("action", "min", [0.0]), [r"'action' has min of shape \(1,\), not \(14,\)"]),
    (stats(HEAD, "mean", [[[0.9]]] * 3), [r"head' has mean\[0\] 0\.9; recomputed"]),
    (stats(HEAD, "mean", [90.0, 90.0, 90.0]), [r"head' has mean of shape \(3,\), not \(3, 1, 1\)"]),
    (info(total_frames=61), [r"info\.json counts 61 frames, the episodes have 60"]),
    (info(total_tasks=3), [r"info\.json counts 3 tasks, there are 2"]),
    (info(total_episodes=0), ["no episodes", "counts 60 frames, the episodes have 0"]),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_every_damage_has_its_line(damage: Any, words: list[str], copied: Path) -> None:
    damage(copied)
    before = fingerprint(copied)
    found = check(copied)
    for line in found.broken:
        assert "\n" not in line
        assert any(re.search(word, line) for word in words), found.broken
    for word in words:
        assert any(re.search(word, line) for line in found.broken), (word, found.broken)
    assert fingerprint(copied) == before


START, STOP = (f"videos/{HEAD}/{name}_timestamp" for name in ("from", "to"))


def moved(number: int, start: float, stop: float) -> Any:
    """Damage that lets an episode's clip begin and end elsewhere in the video."""

    def damage(folder: Path) -> None:
        column(START, set_at(number, start), LINES)(folder)
        column(STOP, set_at(number, stop), LINES)(folder)

    return damage


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (frames, [rf"episode 2: {FILM} has 23 of its 33 frames, none for frame 23"]),
        (moved(2, 3.0, 6.3), [rf"episode 2: {FILM} has 30 of its 33 frames, none for frame 30"]),
        (moved(1, 0.0, 0.7), [rf"episodes 0 and 1 share 0 s to 0\.7 s of {FILM}"]),
        (moved(2, 2.5, 5.8), [rf"episodes 1 and 2 share 2\.5 s to 2\.7 s of {FILM}"]),
        (cut(FILM, 0.5), [rf"'{HEAD}' of episodes .* is truncated|has \d+ of its"]),
        (zeroed, [r"has \d+ of its \d+ frames"]),
        (declared(64, 80), [rf"{FILM} is 32 x 48, not 64 x 80 as info\.json says"]),
        (dtype("action", "flot32"), [r"'action' .* dtype 'flot32'; did you mean 'float32'"]),
        (late, [r"episode 2: 'timestamp' is not 20 / 10 s at frame 20"]),
    ],
)
def test_a_quick_check_finds_it_too(
    damage: Any, words: list[str], quick: bool, copied: Path
) -> None:
    damage(copied)
    found = check(copied, quick=quick).broken
    for word in words:
        assert any(re.search(word, line) for line in found), found
    for line in found:
        assert any(re.search(word, line) for word in words), found


def test_a_frame_that_the_decoder_patches_up_is_no_frame(copied: Path) -> None:
    content = bytearray((copied / FILM).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = np.random.default_rng(0).bytes(40)
    (copied / FILM).write_bytes(content)
    found = check(copied).broken
    for line in found:
        lost = re.search(r"episode (\d): .* has \d+ of its \d+ frames, none for frame (\d+)", line)
        assert lost, found
        number, frame = int(lost[1]), int(lost[2])
        clean = Dataset.open(copied).episode(number)
        with pytest.raises(LociError, match=r"is damaged at .* s; copy the dataset again"):
            clean.frames("head", [frame])
        clean.frames("head", [max(frame - 1, 0)])
    assert found
    assert all(check(copied).broken == found for _ in range(5))


def test_paths_that_lead_out_of_the_dataset_are_not_followed(copied: Path) -> None:
    outside = copied.parent / "secret.parquet"
    shutil.copy(copied / DATA, outside)
    for name, pattern in (
        ("data_path", "../secret.parquet"), ("data_path", str(outside)),
        ("data_path", "data/../../secret.parquet"), ("video_path", "../{video_key}.mp4"),
        ("data_path", r"..\secret.parquet"), ("data_path", "C:/secret.parquet"),
    ):
        info(**{name: pattern})(copied)
        words = rf"info\.json has {name} '.*', which leads out of the dataset; its files lie below"
        with pytest.raises(LociError, match=words):
            check(copied)
        with pytest.raises(LociError, match=words):
            Writer(copied, 10, FEATURES, "tabletop")
        info(data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet")(copied)
    for pattern in ("data/{other}.parquet", "data/{}.parquet", "{chunk_index.no}", "{"):
        info(data_path=pattern)(copied)
        with pytest.raises(LociError, match=r"info\.json has data_path '.*', which is no path"):
            check(copied)


def stored_picture(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_pictures_of_another_kind_size_or_place_are_named(copied: Path) -> None:
    table = pq.read_table(copied / DATA)
    place = table.schema.get_field_index(PICTURE)
    cells = table.column(PICTURE).to_pylist()
    (copied.parent / "secret.png").write_bytes(cells[0]["bytes"])
    for cell, words in (
        ({"bytes": None, "path": "../secret.png"}, "secret.png, which leads out of the dataset"),
        ({"bytes": b"text", "path": "a"}, "is not a picture that can be read"),
        (
            {"bytes": stored_picture(np.zeros((9, 8, 3), np.uint8)), "path": "a"},
            "is 9 x 8, not 6 x 8 as info.json says",
        ),
        (
            {"bytes": stored_picture(np.zeros((6, 8, 4), np.uint8)), "path": "a"},
            "is partly transparent",
        ),
    ):
        column = pa.array([cell, *cells[1:]], table.schema.field(PICTURE).type)
        pq.write_table(table.set_column(place, PICTURE, column), copied / DATA)
        (line,) = check(copied).broken
        assert line.startswith(f"episode 0: frame 0 of '{PICTURE}' in episode 0")
        assert words in line


@pytest.mark.parametrize("name", ["index", "episode_index", "timestamp", "task_index"])
def test_stale_statistics_of_what_nobody_normalises_by_are_a_note(name: str, copied: Path) -> None:
    """Merged and split datasets have them."""
    stats(name, "max", [99.0])(copied)
    stats("frame_index", "all", None)(copied)
    found = check(copied)
    assert found.broken == []
    assert len(found.notes) == 2
    assert any(f"'{name}' has max[0] 99" in note for note in found.notes)
    assert "meta/stats.json lacks 'frame_index'" in found.notes


def test_statistics_of_booleans_may_be_booleans(copied: Path) -> None:
    for key, value in (("min", [False]), ("max", [True])):
        stats("next.done", key, value)(copied)
    assert check(copied).broken == []
    stats("next.done", "min", [True])(copied)
    assert check(copied).broken == ["meta/stats.json: 'next.done' has min[0] 1; recomputed 0"]


def test_statistics_without_quantiles_are_a_note(copied: Path) -> None:
    for name in ("q01", "q99"):
        stats("action", name, None)(copied)
    found = check(copied)
    assert found.broken == []
    assert found.notes == ["meta/stats.json lacks q01, q99 of 'action'"]


def test_true_quantiles_of_all_values_are_right_too(copied: Path) -> None:
    # lerobot's augment_dataset_quantile_stats.py replaces the weighted means by these.
    values = np.concatenate([episode(n, k)["action"] for n, k in enumerate([20, 7, 33])])
    for name, share in (("q01", 0.01), ("q50", 0.5), ("q90", 0.9)):
        stats("action", name, np.quantile(values, share, axis=0).tolist())(copied)
    assert check(copied).broken == []


def test_statistics_of_matrices_by_every_element(copied: Path) -> None:
    values = np.concatenate([episode(n, k)["pose"] for n, k in enumerate([20, 7, 33])])
    path = copied / "meta/stats.json"
    data = json.loads(path.read_text())
    for name in ("min", "max", "mean", "std"):
        data["pose"][name] = getattr(values, name)(axis=0).tolist()
    data["pose"] = {k: v for k, v in data["pose"].items() if not k.startswith("q")}
    path.write_text(json.dumps(data))
    assert check(copied).broken == []
    data["pose"]["max"][1][2] += 1
    path.write_text(json.dumps(data))
    assert "'pose' has max[5]" in check(copied).broken[0]


def test_videos_of_other_programs_are_whole(copied: Path) -> None:
    """B-frames, one key frame, another codec."""
    pixels = np.concatenate([episode(n, k)[HEAD] for n, k in enumerate([20, 7, 33])])
    with av.open(str(copied / FILM), "w") as file:
        stream = file.add_stream("mpeg4", rate=10, options={"bf": "2", "g": "200"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for frame in pixels:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    assert check(copied).broken == []


def test_what_a_model_wants(written: Path, tmp_path: Path) -> None:
    assert check(written, Expected(action=14, state=14, cameras=("head",), fps=10)).broken == []
    wanted = Expected(action=7, state=13, cameras=("head", "front"), height=64, width=64, fps=30)
    assert check(written, wanted).broken == [
        "'action' has shape (14,); the model wants (7,)",
        "'observation.state' has shape (14,); the model wants (13,)",
        "it has 10 frames a second; the model wants 30",
        "camera 'head' is 32 x 48; the model wants 64 x 64",
        f"{written} has no camera 'front' (known: head, picture)",
    ]
    assert check(written, Expected(state=3)).broken[0].startswith("'observation.state' has shape")


def test_what_a_policy_wants_stands_in_the_config_of_its_training(
    written: Path, tmp_path: Path
) -> None:
    run = tabletop("press-button", ROWS["full"])
    (tmp_path / "config.json").write_text(json.dumps(run.to_dict()))
    wanted = read_expected(tmp_path / "config.json")
    assert wanted == Expected(action=14, state=14, cameras=("head", "left_wrist", "right_wrist"))
    assert any("has no camera 'left_wrist'" in line for line in check(written, wanted).broken)
    # A run of an earlier version, whose settings had another form.
    (tmp_path / "config.json").write_text(RECORDED.read_text())
    assert read_expected(tmp_path / "config.json") == wanted
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LociError, match="give a JSON file") as error:
        read_expected(tmp_path / "config.json")
    assert "\n" not in str(error.value)


def ending(*arguments: str) -> int:
    try:
        cli.main(list(arguments))
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def test_the_command(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending("data", "check", str(copied)) == 0
    assert capsys.readouterr().out.endswith("whole: every episode can be read\n")
    config = tmp_path / "model.json"
    config.write_text('{"action": 7}')
    assert ending("data", "check", str(copied), "--config", str(config), "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["broken"] == ["'action' has shape (14,); the model wants (7,)"]
    assert found["episodes"] == 3
    assert found["features"]["action"]["shape"] == [14]
    config.write_text('{"acton": 7}')
    assert ending("data", "check", str(copied), "--config", str(config)) == 2
    assert "did you mean 'action'" in capsys.readouterr().err
    gone(FILM)(copied)
    assert ending("data", "check", str(copied), "--quick") == 1
    assert f"{FILM} is missing" in capsys.readouterr().out
    info(codebase_version="v2.1")(copied)
    assert ending("data", "check", str(copied)) == 2
    error = capsys.readouterr().err
    assert "version v2.1, not v3.0; convert it" in error
    assert error.count("\n") == 1


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="is no LeRobot dataset"):
        check(tmp_path)
