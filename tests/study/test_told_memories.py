"""Memories that ask for depth are told it in a study, and what they saw counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loci.data.cases import make_cases
from loci.data.episodes import EpisodeCache
from loci.data.truth import Truth, prepare
from loci.geometry import Camera
from loci.geometry.imperfect import IMPERFECT
from loci.geometry.voxels import VoxelMap
from loci.memory import Compose, Episodic, Hybrid, Map, Memory
from loci.models.text import HashedWords
from loci.study.rooms.metrics import psnr
from loci.study.rooms.renders import RENDERS, render
from loci.study.rooms.rollouts import rollout
from loci.worlds.rooms.courses import LEFT45
from loci.worlds.rooms.events import EVENT_COURSES
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


@pytest.mark.parametrize("name", RENDERS)
def test_a_raw_render_knows_what_was_seen_and_nothing_else(name: str, tmp_path: Path) -> None:
    """On a way back along the way out all is known; seen from the first frame alone, only that:
    what is filled is never grey."""
    truth = truth_of("out", Camera(), tmp_path)
    video, covered = render(name, truth)
    assert covered.mean() > 0.9
    assert np.array_equal(video[: truth.observed], truth.rgb[: truth.observed])
    assert psnr(video[truth.generated], truth.rgb[truth.generated]) > 20
    alone = truth_of("first", Camera(), tmp_path)
    video, covered = render(name, alone)
    assert 0.3 < covered.mean() < 0.9
    grey = (video[alone.generated] == 128).all(-1).mean()
    assert grey < 0.01 if name.endswith("filled") else grey > 0.1


def test_a_rollout_is_told_where_frames_are_said_to_stand(tmp_path: Path) -> None:
    """Poses that are off reach memories that know nothing of depth, too."""
    for memory in (Map(), Hybrid()):
        model = tiny_world(memory)
        exact = truth_of("out", model.config.camera, tmp_path)
        off = replace(exact, geometry=IMPERFECT["poses"])
        videos = [rollout(model, [truth], 0)[0] for truth in (exact, off)]
        assert not np.array_equal(*videos)


def test_renders_are_told_what_a_memory_is_told(tmp_path: Path) -> None:
    exact = truth_of("out", Camera(), tmp_path)
    off = replace(exact, geometry=IMPERFECT["strong"])
    scores = [psnr(render("render-2cm", t)[0][t.generated], t.rgb[t.generated])
              for t in (exact, off)]
    assert scores[1] < scores[0] - 5


def test_a_rollout_is_told_what_happened_where_the_model_reads(tmp_path: Path) -> None:
    """After what was observed: the sentence of a case that has one, "" elsewhere."""
    config = tiny_world(Hybrid(), text_dim=24).config
    torch.manual_seed(0)
    model = replace(config, text=HashedWords()).build().eval()
    for block in model.dit.blocks:
        torch.nn.init.normal_(block.cross_attn.o.weight)
        torch.nn.init.normal_(block.modulation)
    torch.nn.init.normal_(model.dit.head.head.weight)
    course = next(c for c in EVENT_COURSES if c.event == ("taken", "told"))
    cases = make_cases("heldout", (course,), 2)
    told = [prepare(c, EpisodeCache(tmp_path), config.camera, groups=()) for c in cases]
    assert all(t.sentence.endswith("taken away.") for t in told)
    heard, silence = rollout(model, told, 0), [replace(t, event=None) for t in told]
    assert [t.sentence for t in silence] == ["", ""]
    for a, b in zip(heard, rollout(model, silence, 0), strict=True):
        assert not np.array_equal(a, b)
