"""Files are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from loci.errors import LociError
from loci.io.files import atomic_write, new_folder


def test_bytes_text_and_functions_are_written(tmp_path: Path) -> None:
    atomic_write(tmp_path / "new" / "folder" / "a.bin", b"\0\1")
    atomic_write(tmp_path / "b.txt", "hé")
    atomic_write(tmp_path / "c.txt", lambda p: p.write_text(p.suffix))
    assert (tmp_path / "new/folder/a.bin").read_bytes() == b"\0\1"
    assert (tmp_path / "b.txt").read_text(encoding="utf-8") == "hé"
    assert (tmp_path / "c.txt").read_text() == ".txt"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.txt", "c.txt", "new"]


def private(path: Path) -> None:
    """Put a private file in the place of the given one, as the safetensors library does."""
    other = path.with_name("other")
    other.touch(0o600)
    os.replace(other, path)


@pytest.mark.parametrize("content", ["x", private])
def test_files_get_ordinary_permissions_and_the_umask_is_left_alone(
    content: str | Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            # It belongs to the whole process: another thread may make a file meanwhile.
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask was set"))
            atomic_write(tmp_path / "a", content)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("failure", [ValueError("bad"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: BaseException
) -> None:
    target = tmp_path / "a.json"
    atomic_write(target, "old")

    def half(path: Path) -> None:
        path.write_text("new, but only h")
        raise failure

    with pytest.raises(type(failure)):
        atomic_write(target, half)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(LociError, match=r"cannot write .*a\.bin: No space left on device; make"):
        atomic_write(tmp_path / "a.bin", full)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LociError, match="cannot write"):
        atomic_write(tmp_path / "file" / "below", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LociError, match="cannot write"):
        atomic_write(tmp_path / "folder", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out/a").read_text() == "a"
    with pytest.raises(LociError, match="out exists; nothing is overwritten"):
        new_folder(tmp_path / "out").__enter__()

    def half(error: BaseException) -> None:
        with new_folder(tmp_path / "other") as folder:
            (folder / "half").write_text("x")
            raise error

    with pytest.raises(LociError, match=r"cannot write .*other: No space left"):
        half(OSError(errno.ENOSPC, "No space left"))
    with pytest.raises(KeyboardInterrupt):
        half(KeyboardInterrupt())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
