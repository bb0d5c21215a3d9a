"""Training of the world-action model: batches, losses, what reaches it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import demonstrations as made
from away import learn
from kinds import one_of_each_kind
from loci.data.sources import RoomsData
from loci.errors import LociError
from loci.memory import ActionHistory, Compose, Hybrid
from loci.models.text import HashedWords
from loci.models.world_action import WorldActionModel
from loci.recipes.registry import recipes
from loci.recipes.tabletop import POLICY_ROWS
from loci.training.augmentation import with_window
from loci.training.folder import RunFolder
from loci.training.microbatches import Microbatches
from loci.training.objectives import PolicyObjective
from loci.training.policy import PolicyRun
from loci.training.trainer import fit
from small_policy import small, task
from tiny_policy import MEMORIES

LENGTHS = [37, 12, 20, 33]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("demonstrations")
    made.write(path, LENGTHS)
    return path


def test_a_step_is_a_pure_function_of_seed_and_step(folder):
    first, again = (task(small(folder, video=1.0)) for _ in range(2))
    for step in (0, 5):
        a, b = first.batch(step), again.batch(step)
        assert a.keys() == b.keys()
        for name, value in a.items():
            same = torch.equal(value, b[name]) if isinstance(value, Tensor) else value == b[name]
            assert same, name
    assert not torch.equal(first.batch(0)["noise"], first.batch(1)["noise"])


@pytest.mark.parametrize("video", [0.0, 0.5])
def test_what_is_padded_counts_for_nothing(folder, video):
    built = task(small(folder, video=video))
    batch = built.batch(0)
    assert not batch["valid"].all()
    loss, metrics = built.loss(batch)
    # Chunks and frames after the end of an episode may hold anything: nobody before sees them.
    beyond = ~batch["valid"].any(-1)
    padded = batch | {"actions": batch["actions"] + 9.0 * beyond[:, :, None, None]}
    padded["latents"] = batch["latents"] + 3.0 * beyond[:, :, None, None, None]
    padded["proprio"] = batch["proprio"] + 3.0 * beyond[:, :, None]
    again, _ = built.loss(padded)
    torch.testing.assert_close(again, loss)
    assert ("video" in metrics) == (video > 0)
    real = batch | {"actions": batch["actions"] + 9.0 * batch["valid"][..., None]}
    assert not torch.allclose(built.loss(real)[0], loss)


def test_both_losses_are_weighed(folder):
    built = task(small(folder, video=0.5, actions=2.0))
    loss, metrics = built.loss(built.batch(0))
    assert loss.shape == (3,)
    torch.testing.assert_close(loss, 2 * metrics["actions"] + 0.5 * metrics["video"])
    assert not metrics["actions"].requires_grad


def test_parts_side_by_side_give_the_whole_batchs_gradient(folder):
    built = task(small(folder, video=1.0, video_frames=2, windows=(1, 3)))
    parameters = [p for p in built.module.parameters() if p.requires_grad]
    results = []
    for threads in (1, 2):
        with Microbatches(parameters, threads) as microbatches:
            loss = microbatches.backward(built.loss, built.batch(1))["loss"]
        results.append((loss, [p.grad for p in parameters]))
    (loss, grads), (other, others) = results
    torch.testing.assert_close(loss, other)
    for grad, that in zip(grads, others, strict=True):
        assert (grad is None) == (that is None)
        if grad is not None:
            torch.testing.assert_close(grad, that, atol=1e-6, rtol=1e-4)


def test_frames_ahead_are_a_subset_that_changes_from_step_to_step(folder):
    built = task(small(folder, video=1.0, video_frames=2))
    picks = [built.batch(step)["ahead"] for step in range(8)]
    assert len(set(picks)) > 1
    for step, (first, second) in enumerate(picks):
        assert 1 <= first < second < built.batch(step)["latents"].shape[1]


def test_a_memory_of_actions_learns_from_what_was_done(folder):
    """Chunks that were carried out are seen by what comes after them, with any window."""
    memory = Compose(members=(Hybrid(anchors=1, window=2, gists_per_frame=2), ActionHistory()))
    built = task(small(folder, memory, windows=(1, 3)))
    batch = built.batch(0)
    model, flow = built.model, built.config.model.flow
    loss, _ = built.loss(batch)
    loss.mean().backward()
    assert model.expert.encoder.weight.grad.abs().sum() > 0
    assert with_window(memory, 3).members[0].window == 3
    later = batch | {"actions": batch["actions"].clone()}
    later["actions"][:, 0] += 5.0
    # The first chunk's own loss aside, those of others change since they saw it.
    outputs = []
    for each in (batch, later):
        target = model.actions(batch["actions"]).repeat(1, 2, 1, 1)
        noisy = flow.path(target, batch["noise"], batch["time"][:, :, None, None])
        found, _ = model(
            batch["latents"], noisy, batch["time"],
            model.proprio(batch["proprio"]),
            after=[*range(batch["latents"].shape[1])] * 2, executed=model.actions(each["actions"]),
        )
        outputs.append(found[:, : batch["latents"].shape[1]])
    assert torch.equal(outputs[0][:, 0], outputs[1][:, 0])
    assert not torch.allclose(outputs[0][:, 1], outputs[1][:, 1])


@pytest.mark.parametrize("name", one_of_each_kind(MEMORIES))
def test_a_policy_learns_away_from_the_host(folder, name):
    memory = MEMORIES[name]
    config = small(
        folder, memory, attention="dense", video=0.5, video_frames=2, linger_frames=4,
        pause_chance=0.3, lead_frames=0 if memory.executed else 3,
    )
    learn(config.task())


def test_a_run_leaves_a_policy_that_knows_its_scale(folder, tmp_path):
    config = small(folder)
    config = replace(config, train=replace(config.train, steps=3, warmup=1))
    folder = RunFolder.open(tmp_path, config)
    built = task(config)
    config.finish(built.module, tmp_path, fit(built, config.train, folder, threads=1))
    model = WorldActionModel.load(tmp_path / "model.safetensors")
    assert model.config.embodiment == config.data.embodiment()
    assert model.config.embodiment.camera_names == ("head",)
    episodes = [made.episode(n, length) for n, length in enumerate(LENGTHS)]
    actions = np.concatenate([one["action"] for one in episodes])
    low, high = actions.min(0), actions.max(0)
    np.testing.assert_allclose(model.actions.middle.numpy(), (low + high) / 2, rtol=1e-5)
    np.testing.assert_allclose(model.actions.scale.numpy(), (high - low) / 2, rtol=1e-5)


@pytest.mark.parametrize(("change", "message"), [
    ({"clean_noise": 2.0}, "clean_noise is 2.0; use 0 to 1"),
    ({"pause_share": 1.5}, "pause_share is 1.5; use 0 to 1"),
    ({"pause_frames": 0}, "pause_frames is 0; use 1 or more"),
    ({"lead_frames": -1}, "lead_frames is -1; use 0 or more"),
    ({"linger_frames": -1}, "linger_frames is -1; use 0 or more"),
    ({"batch": 0}, "batch is 0"), ({"draws": 0}, "draws is 0"), ({"buckets": 0}, "buckets is 0"),
    ({"video_frames": 0}, "use 1 or more"),
    ({"actions": 0.0}, "use more than 0"), ({"video": -1.0}, "use 0 or more"),
    ({"data": RoomsData()}, "no actions to learn from"),
])
def test_settings_that_train_nothing_are_refused(folder, change, message):
    with pytest.raises(LociError, match=message):
        small(folder, **change)


@pytest.mark.filterwarnings("error:.*instructions")
def test_instructions_reach_the_policy(folder):
    """Two tasks of a dataset: what is said changes what is done, and each row reads its own."""
    run = small(folder, batch=4)
    told = task(replace(run, model=replace(run.model, text=HashedWords())))
    batch = told.batch(0)
    picks = told.sampler.picks(0)
    words = [told.model.embed([f"task {pick % 2}"])[0][0] for pick in picks]
    assert all(torch.equal(a, b) for a, b in zip(batch["text"], words, strict=True))
    loss = told.loss(batch)[0]
    swapped = batch | {"text": batch["text"].flip(0)}
    changed = (told.loss(swapped)[0] - loss).abs() > 0
    differs = torch.tensor([a % 2 != b % 2 for a, b in zip(picks, picks[::-1], strict=True)])
    assert differs.any()
    assert torch.equal(changed, differs)
    loss.mean().backward()
    assert told.model.expert.text_embedding[0].weight.grad.abs().sum() > 0
    with Microbatches([p for p in told.module.parameters() if p.requires_grad], 2) as microbatches:
        parts = microbatches.backward(told.loss, batch)["loss"]
    torch.testing.assert_close(parts, loss.mean().detach())


def test_instructions_that_nobody_reads_are_mentioned(folder):
    with pytest.warns(UserWarning, match="2 different instructions are left out"):
        task(small(folder))
    with pytest.raises(LociError, match="reads no instructions"):
        small(folder).model.build().embed(["task 1"])


def test_a_model_without_a_head_for_frames_learns_no_video_and_makes_none(folder):
    with pytest.raises(LociError, match=r"set objective\.video to 0"):
        replace(small(folder), objective=PolicyObjective(video=1.0))
    model = task(small(folder)).model
    assert not any(name.startswith("world.dit.head") for name in model.state_dict())
    session, pose = model.world.session(), torch.eye(4)[None, None]
    frame = torch.zeros(1, 1, *model.world.latent_shape)
    session.write(frame, pose)
    with pytest.raises(LociError, match="predicts no frames"):
        session.generate(pose, frame)


def test_every_task_and_row_has_a_recipe_that_differs_in_its_memory_alone():
    known = recipes()
    plain = known["cover-blocks-hybrid"]()
    for name, memory in POLICY_ROWS.items():
        other = known[f"cover-blocks-{name}"]()
        world = replace(other.model.world, memory=plain.model.world.memory)
        assert replace(other, model=replace(other.model, world=world)) == plain
        assert other.model.world.memory == memory
        assert PolicyRun.from_json(other.to_json()) == other
