"""Rooms in Context-as-Memory's layout: whole, the same after a kill, not mixed with others."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from loci.data import tiny_scenes
from loci.data.overlap_labels import OverlapRule
from loci.data.tiny_scenes import TinyScenes, make_tiny
from loci.errors import LociError
from loci.worlds.rooms.room import sample_room
from tiny_set import TINY


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*"))
        if file.is_file() and ".loci" not in file.parts
    }


def test_a_set_has_every_file_of_the_layout(tiny_set: Path) -> None:
    names = files(tiny_set).keys()
    for scene in ("room_0000", "room_0001"):
        assert f"jsons/{scene}.json" in names
        assert {f"frames/{scene}/{n:04d}.png" for n in range(33)} <= names
        assert {f"overlap_labels/{scene}/{n}.json" for n in range(33)} <= names
    assert len(names) == 2 * (33 + 33 + 1) + 2
    with (tiny_set / "metadata_full.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["video_name"] for row in rows[:2]] == [
        "room_0000/0_31.mp4", "room_0000/32_32.mp4",
    ]
    assert all((tiny_set / path).exists() for row in rows for path in row["video"].split("|"))
    captions = dict(
        line.split("\t") for line in (tiny_set / "captions.txt").read_text().splitlines()
    )
    assert captions == {row["video_name"]: row["prompt"] for row in rows}


def test_captions_name_what_is_in_view(tiny_set: Path) -> None:
    room = sample_room(0, "train")
    views = room.render(TINY.poses(0)[:32], TINY.camera)
    shown = {f"a {room.objects[n].color} {room.objects[n].shape}"
             for n in np.unique(views.identity) if n >= 0}
    line = (tiny_set / "captions.txt").read_text().splitlines()[0]
    named = set(line.partition("A room with ")[2].rstrip(".").split(" and "))
    assert named <= shown
    assert len(shown - named) <= 2  # at the edge: a part of it, and not its centre


def test_a_killed_making_ends_in_the_same_set(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "again"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tiny_scenes, "write_labels", killed)
        with pytest.raises(KeyboardInterrupt):
            make_tiny(out, 1, TINY, workers=1)
    (out / "frames" / "room_0001").mkdir()
    (out / "frames" / "room_0001" / "0000.png").write_bytes(b"half")
    assert make_tiny(out, 2, TINY, workers=1) == 2
    assert files(out) == files(tiny_set)
    assert make_tiny(out, 1, TINY, workers=1) == 2  # nothing is lost
    assert files(out) == files(tiny_set)
    with pytest.raises(LociError, match=r"other settings \(length: 33 there, 37 now\)"):
        make_tiny(out, 2, TinyScenes(length=37, size=32), workers=1)
    with pytest.raises(LociError, match=r"other settings \(share"):
        make_tiny(out, 2, TinyScenes(length=33, size=32, overlap=OverlapRule(share=0.5)))


def test_sets_that_cannot_be(tmp_path: Path) -> None:
    for options, words in (
        ({"length": 8}, "give 1 \\+ 4 n"), ({"size": 4}, "pictures of 4 pixels"),
    ):
        with pytest.raises(LociError, match=words):
            TinyScenes(**options)
    with pytest.raises(LociError, match="0 scenes are no dataset"):
        make_tiny(tmp_path / "x", 0)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(LociError, match="holds other files"):
        make_tiny(tmp_path, 1, TINY)
