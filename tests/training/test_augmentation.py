"""What happens to demonstrations before they are learnt from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import demonstrations as made
from loci.data.base import Episodes
from loci.errors import LociError
from loci.memory import FullHistory, Hybrid
from loci.training.augmentation import repeat_frames, wait_starts
from small_policy import small, task

LENGTHS = [37, 12, 20, 33]
LENGTHS_IN_CHUNKS = [5, 2, 3, 5]  # of 8 steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("demonstrations")
    made.write(path, LENGTHS)
    return path


def test_windows_vary_and_change_what_is_computed(folder):
    built = task(small(folder, windows=(1, 4)))
    batch = built.batch(0)
    seen = {built.batch(step)["window"] for step in range(12)}
    assert seen == {1, 4}
    losses = [built.loss(batch | {"window": w})[0] for w in (1, 4)]
    assert not torch.allclose(*losses)
    with pytest.raises(LociError, match="no window to vary"):
        small(folder, FullHistory(), windows=(1, 2))


def test_what_is_waited_for_can_take_longer(folder):
    """The first frame at which the robot goes on waiting is seen again, side by side, and what was
    done at it is asked for once; in half of the steps none is, and no other frame ever."""
    config = small(folder, FullHistory(), linger_frames=3, clean_noise=0.0)
    built = task(config)
    built.data = built.data.rows(range(len(built.data)))
    still = built.data.actions.clone()
    idle = torch.zeros(still.shape[:2], dtype=torch.bool)
    idle[:3, 1:3] = idle[0, 3] = idle[3, [1, 3]] = True
    still[idle] = still[idle][:, :1]
    # At frame 1 shows what was done before: seen once, as it happened once. Row 0 waits at frames 2
    # and 3: the first of them is seen again.
    waits = torch.zeros_like(idle)
    waits[:3, 2] = True
    valid = built.data.valid.clone()
    built.data = replace(built.data, actions=still)
    whole = valid.all(-1)
    assert torch.equal(wait_starts(built.data, built.model.actions.scale), waits & whole)
    longer = 0
    for step in range(48):
        batch = built.batch(step)
        picks = built.sampler.picks(step)
        for row, pick in enumerate(picks):
            t, times = 0, []
            for frame in range(LENGTHS_IN_CHUNKS[pick]):
                first = t
                while True:
                    assert torch.equal(batch["actions"][row, t], still[pick, frame])
                    latents = built.data.latents[pick, frame].float()
                    assert torch.equal(batch["latents"][row, t], latents)
                    assert torch.equal(batch["proprio"][row, t], built.data.proprio[pick, frame])
                    t += 1
                    if batch["valid"][row, t - 1].any():
                        break
                assert torch.equal(batch["valid"][row, t - 1], valid[pick, frame])
                times.append(t - first)
            assert not batch["valid"][row, t:].any()
            for frame, n in enumerate(times):
                assert n <= (4 if waits[pick, frame] and whole[pick, frame] else 1)
            longer += max(times) > 1
    assert 3 < longer < 40  # of 144
    assert built.loss(batch)[0].isfinite().all()


def test_an_episode_of_one_frame_lingers():
    one = Episodes(
        latents=torch.ones(2, 3, 1, 2, 2), frames=torch.tensor([1, 3]), instructions=("", ""),
        proprio=torch.ones(2, 3, 1), actions=torch.ones(2, 3, 4, 1),
        valid=torch.tensor([[True, False, False], [True] * 3])[..., None].expand(2, 3, 4),
    )
    seen = repeat_frames(one, torch.tensor([[0, 0, 0], [2, 0, 1]]))
    assert seen.frames.tolist() == [1, 6]
    assert seen.valid.all(-1).tolist() == [
        [True] + 5 * [False], [False, False, True, True, False, True]
    ]
    alone = repeat_frames(one.rows([0]), torch.tensor([[2]]))
    assert alone.valid.all(-1).tolist() == [[False, False, True]]


def test_time_goes_on_between_frames_in_a_share_of_the_steps(folder):
    found = {
        paused: ["pauses" in task(small(folder, pause_chance=0.5, pause_share=paused)).batch(step)
                 for step in range(20)]
        for paused in (0.0, 0.5, 1.0)
    }
    assert not any(found[0.0])
    assert all(found[1.0])
    assert 3 < sum(found[0.5]) < 17


@pytest.mark.parametrize("video", [0.0, 0.5])
def test_a_lead_is_the_first_frame_seen_again_and_teaches_nothing(folder, video):
    """The episode's own chunks and frames are all that is predicted, with the lead in memory."""
    built = task(small(folder, FullHistory(), video=video, lead_frames=5, clean_noise=0.0))
    batches = [built.batch(step) for step in range(24)]
    leads = [b["latents"].shape[1] - b["actions"].shape[1] for b in batches]
    assert set(leads) == {*range(6)}
    assert leads.count(0) > 6
    batch, lead = next((b, n) for b, n in zip(batches, leads, strict=True) if n == 4)
    for name in ("latents", "proprio"):
        assert (batch[name][:, :lead] == batch[name][:, lead : lead + 1]).all()
    alone = {k: v[:, lead:] if k in ("latents", "proprio", "clean_noise", "clean_time", "pauses")
             else v for k, v in batch.items()}
    if video:
        assert min(batch["ahead"]) > lead
        alone["ahead"] = tuple(frame - lead for frame in batch["ahead"])
    loss, _ = built.loss(batch)
    plain, _ = built.loss(alone)
    # Seen and weighed: more of the same keys change what is attended to.
    assert not torch.allclose(loss, plain)
    # But not asked for: what was done while it stood still does not exist.
    assert batch["noise"].shape[1] == 2 * batch["actions"].shape[1]
    # Who keeps one frame neither sees the lead nor is told of it.
    window = task(small(folder, Hybrid(anchors=0, window=1, gists_per_frame=0), video=video,
                        lead_frames=5, clean_noise=0.0))
    batch = next(b for b in map(window.batch, range(24)) if b["latents"].shape[1]
                 == b["actions"].shape[1] + lead)
    alone = {k: v[:, lead:] if k in ("latents", "proprio", "clean_noise", "clean_time", "pauses")
             else v for k, v in batch.items()}
    if video:
        alone["ahead"] = tuple(frame - lead for frame in batch["ahead"])
    torch.testing.assert_close(window.loss(batch)[0], window.loss(alone)[0])
