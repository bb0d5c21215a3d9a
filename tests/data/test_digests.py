"""Digests of files: remembered, and known to be those of other files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from loci.data import digests
from loci.data.digests import digests_of
from loci.errors import LociError


def test_files_are_read_once_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path / "cache"))
    files, read = [tmp_path / "a" / name for name in ("x", "y")], []
    files[0].parent.mkdir()
    for file in files:
        file.write_text(file.name)
        os.utime(file, (1e9, 1e9))
    digest = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda file: read.append(file.name) or digest(file))
    right = [hashlib.sha256(text.encode()).hexdigest() for text in "xy"]
    assert digests_of(files[0].parent, files) == right
    assert digests_of(files[0].parent, files[::-1]) == right[::-1]
    assert read == ["x", "y"]
    files[1].write_text("z")  # of the same size; so new that it may change again unnoticed
    for _ in range(2):
        assert digests_of(files[0].parent, files)[1] == hashlib.sha256(b"z").hexdigest()
    assert read == ["x", "y", "y", "y"]
    (index,) = (tmp_path / "cache" / "digests").iterdir()
    index.write_text("{")  # can be made again
    assert digests_of(files[0].parent, files)[0] == right[0]
    files[0].unlink()
    with pytest.raises(LociError, match=r"cannot read .*x: No such file"):
        digests_of(files[0].parent, files)
