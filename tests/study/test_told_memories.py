"""Memories that ask for depth are told it in a study, and what they saw counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loci.data.cases import make_cases
from loci.data.episodes import EpisodeCache
from loci.data.truth import Truth, prepare
from loci.geometry import Camera
from loci.geometry.voxels import VoxelMap
from loci.memory import Compose, Episodic, Map, Memory
from loci.study.rooms.rollouts import rollout
from loci.worlds.rooms.courses import LEFT45
from tiny_world import tiny_world

MEMORIES: dict[str, Memory] = {
    "map": Map(), "episodic": Episodic(pick="cascade", read="tokens"),
    "both": Compose(members=(Map(window=2), Episodic(read="cross"))),
}


def truth_of(observe: str, camera: Camera, folder: Path) -> Truth:
    (case,) = make_cases("heldout", (LEFT45,), 1)
    return prepare(case, EpisodeCache(folder), camera, observe=observe, groups=())


@pytest.mark.parametrize("name", MEMORIES)
def test_what_was_seen_counts(name: str, tmp_path: Path) -> None:
    """With what is known of another room the return is another one."""
    model = tiny_world(MEMORIES[name])
    truth = truth_of("out", model.config.camera, tmp_path)
    true, wrong = (rollout(model, [truth], 0, memory)[0] for memory in ("true", "wrong"))
    assert true.shape == truth.rgb.shape
    assert not np.array_equal(true, wrong)


@pytest.mark.parametrize("observe", ["out", "first"])
def test_generated_frames_are_mapped_where_nothing_else_is_seen(
    observe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, mapped = tiny_world(Map()), []
    fuse = VoxelMap.fuse
    monkeypatch.setattr(
        VoxelMap, "fuse", lambda self, view: (mapped.append(view.frame), fuse(self, view))[1]
    )
    truth = truth_of(observe, model.config.camera, tmp_path)
    rollout(model, [truth], 0)
    assert mapped == list(range(truth.observed if observe == "out" else len(truth.rgb)))
