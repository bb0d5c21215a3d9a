"""`loci play`: which models go along, and what is said where none can."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from loci.commands.play import models, play
from loci.errors import LociError
from loci.io.bundled import bundled
from loci.memory import ROWS
from tiny_world import tiny_world


def test_all_models_that_ship_can_be_played_the_telling_ones_first() -> None:
    found = models(())
    assert list(found)[:3] == ["hybrid", "context-20", "none"]
    assert {"spmem-tokens", "delta", "put-back-block-hybrid"} <= set(found)
    assert "codec" not in found


def test_models_of_folders_are_called_by_their_runs(tmp_path: Path) -> None:
    for name in ("hybrid", "window"):
        (tmp_path / name).mkdir()
        tiny_world(ROWS[name]).save(tmp_path / name / "model.safetensors")
        shutil.copy(bundled("codec"), tmp_path / name / "other.safetensors")
    tiny_world(ROWS["none"]).save(tmp_path / "lone.safetensors")
    assert list(models([str(tmp_path)])) == ["hybrid", "lone", "window"]
    assert list(models(["none", str(tmp_path / "window")])) == ["none", "window"]
    with pytest.raises(LociError, match="two models are called hybrid"):
        models(["hybrid", str(tmp_path)])


def test_what_cannot_be_played_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="no model in"):
        models([str(tmp_path)])
    with pytest.raises(LociError, match="nowhere"):
        play(["nowhere"], "127.0.0.1", 0)
    with pytest.raises(LociError, match="codec holds a codec"):
        play(["codec"], "127.0.0.1", 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(LociError, match="choose another --port"):
            play(["none"], "127.0.0.1", taken.getsockname()[1])
