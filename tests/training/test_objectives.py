"""Every objective is one number a sample: no part of a batch depends on the others."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import demonstrations as made
import made_up_rooms
from loci.data.base import Episodes
from loci.data.sources import RoomsData
from loci.memory import ROWS
from loci.models.text import HashedWords
from loci.recipes.rooms import rooms, with_revisit_loss
from loci.training.task import Batch, Task
from loci.training.world import WorldRun
from small_policy import small, task

KINDS = ("world", "revisit", "ragged", "retrieval", "actions", "video", "text", "augmented")


def world(name: str = "hybrid", **changes: Any) -> WorldRun:
    run = rooms(ROWS[name])
    dit = replace(run.world.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8)
    data = RoomsData(episodes=6, length=17)
    return replace(run, world=replace(run.world, dit=dit), **{"data": data, "batch": 6, **changes})


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    folder: Path = tmp_path_factory.mktemp("demonstrations")
    made.write(folder, [37, 12, 20, 33, 9, 41])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoomsData, "load", made_up_rooms.load)
        torch.manual_seed(0)
        found: dict[str, Task] = {
            "world": world().task(), "revisit": with_revisit_loss(world(), 2.0).task(),
            "retrieval": world("context-20-drop").task(),
        }
        patch.setattr(RoomsData, "load", ragged)
        found["ragged"] = with_revisit_loss(world()).task()
        for one in found.values():
            with torch.no_grad():
                one.module.dit.head.head.weight.normal_(std=0.1)
    plain = small(folder, batch=6)
    found |= {
        "actions": task(plain), "video": task(small(folder, batch=6, video=0.5)),
        "text": task(replace(plain, model=replace(plain.model, text=HashedWords()))),
        "augmented": task(small(
            folder, batch=6, video=1.0, video_frames=2, pause_chance=0.3, lead_frames=4,
            linger_frames=4, windows=(1, 3), clean_noise=0.2,
        )),
    }
    assert found.keys() == set(KINDS)
    return found


def ragged(data: RoomsData, spec: Any) -> Episodes:
    whole = made_up_rooms.load(data, spec)
    return replace(whole, frames=torch.tensor([17, 9, 16, 5, 13, 4]))


@settings(
    deadline=None, max_examples=3,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.parametrize("kind", KINDS)
@given(cuts=st.sets(st.integers(1, 5), min_size=1), step=st.integers(0, 9))
def test_a_samples_loss_is_the_same_in_any_part_of_the_batch(
    tasks: dict[str, Task], kind: str, cuts: set[int], step: int
) -> None:
    built = tasks[kind]
    batch = built.batch(step)
    bounds = [0, *sorted(cuts), 6]
    parts = [slice(a, b) for a, b in pairwise(bounds)]
    with torch.no_grad():
        losses, metrics = built.loss(batch)
        found = [built.loss(cut(batch, part)) for part in parts]
    assert losses.shape == (6,)
    torch.testing.assert_close(torch.cat([part for part, _ in found]), losses)
    for name, values in metrics.items():
        torch.testing.assert_close(torch.cat([more[name] for _, more in found]), values)


def cut(batch: Batch, part: slice) -> Batch:
    return {k: v[part] if isinstance(v, Tensor | list) else v for k, v in batch.items()}


def test_what_is_filled_up_teaches_nothing(tasks: dict[str, Task]) -> None:
    """Frames behind the end of an episode may hold anything; one shorter than a chunk is silent."""
    built: Any = tasks["ragged"]
    batch = built.batch(0)
    frames = built.data.frames[built.sampler.picks(0)]
    beyond = torch.arange(17) >= frames[:, None]
    noise = torch.randn(batch["latents"].shape)
    changed = batch | {"latents": batch["latents"] + noise * beyond[:, :, None, None, None]}
    with torch.no_grad():
        losses, again = built.loss(batch)[0], built.loss(changed)[0]
    torch.testing.assert_close(losses, again)
    assert (losses == 0).tolist() == (frames < 5).tolist()
    assert batch["valid"].sum(1).tolist() == ((frames - 1) // 4).tolist()


def digest(batch: Batch) -> str:
    """Of the tensors that the recorded runs had."""
    sha = hashlib.sha256()
    for name in sorted(batch):
        if name in ("ahead", "window") or not isinstance(batch[name], Tensor):
            continue
        sha.update(name.encode())
        sha.update(batch[name].contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def test_batches_are_those_of_the_recorded_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with every augmentation: digests of the code that trained them (7da617f)."""
    made.write(tmp_path, [37, 12, 20, 33, 9, 60, 41])
    policy = small(
        tmp_path, video=0.5, video_frames=2, pause_chance=0.3, pause_frames=9, pause_share=0.5,
        lead_frames=5, linger_frames=4, buckets=3, windows=(1, 3), clean_noise=0.2,
    ).task()
    assert [digest(policy.batch(step)) for step in (0, 7)] == [
        "fd26014e84eda37c", "e91a165af541b87b",
    ]
    monkeypatch.setattr(RoomsData, "load", made_up_rooms.load)
    run = world("context-20-drop", data=RoomsData(episodes=5, length=9), batch=2).task()
    found = [run.batch(step) for step in (0, 1)]
    for batch in found:
        del batch["valid"]  # all of it, there
    assert [digest(batch) for batch in found] == ["e3ccc833234b08b6", "74a6d82184127868"]
