"""Shards of episodes: made once, by one process each, whatever happens to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from filelock import FileLock

from loci.data.base import Episodes
from loci.data.stored import Shard, StoredEpisodes, Work, stored
from loci.errors import LociError
from loci.io.files import cache_folder
from loci.models.codecs import PixelCodecConfig


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path))


def episode(number: int, frames: int = 2) -> Episodes:
    return Episodes(
        latents=torch.full((1, frames, 1, 1, 1), float(number)), frames=torch.tensor([frames]),
        instructions=(f"é {number}",),
        since=torch.tensor([number]) if number % 2 else None,
    )


def shard(number: int) -> Shard:
    return Shard.of("made-up", {"number": number})


def test_processes_divide_the_work_and_wait_for_each_other() -> None:
    made: list[int] = []
    lock = FileLock(cache_folder("locks") / f"{shard(1).file.name}.lock")

    def make(number: int) -> list[Episodes]:
        made.append(number)
        if number == 0:  # another process begins the next shard, and is done after the last
            lock.acquire()
        if number == 2:
            shard(1).write([episode(1)])
            lock.release()
        return [episode(number)]

    work = [Work(shard(n), lambda n=n: make(n), 1) for n in range(3)]
    found = stored(iter(work), PixelCodecConfig().build(), 3)
    assert made == [0, 2]
    assert [float(found.rows([n]).latents.max()) for n in range(3)] == [0, 1, 2]
    assert not list(cache_folder("locks").iterdir())


def test_what_another_process_left_is_made() -> None:
    made: list[int] = []
    lock = FileLock(cache_folder("locks") / f"{shard(0).file.name}.lock")

    def make(number: int) -> list[Episodes]:
        made.append(number)
        if number == 1:
            lock.release()  # the other one is killed: the system lets go of its lock
        return [episode(number)]

    lock.acquire()
    work = [Work(shard(n), lambda n=n: make(n), 1) for n in range(2)]
    found = stored(iter(work), PixelCodecConfig().build(), 2)
    assert made == [1, 0]
    assert found.instructions == ("é 0", "é 1")


def test_numbers_of_episodes_come_back() -> None:
    shard(0).write([episode(0, 1), episode(1, 3)])
    found = StoredEpisodes([shard(0)])
    assert found.frames.tolist() == [1, 3]
    assert found.given is None
    both = found.rows([1, 0])
    assert both.since is not None
    assert both.since.tolist() == [1, 0]
    assert both.instructions == ("é 1", "é 0")
    assert both.latents.shape[:2] == (2, 3)
    with pytest.raises(LociError, match="have no actions"):
        found.all_actions()
    shard(0).file.write_bytes(b"")
    with pytest.raises(LociError, match="is truncated or no shard"):
        StoredEpisodes([shard(0)])
