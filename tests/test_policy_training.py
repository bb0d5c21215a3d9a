"""Training of the world-action model: demonstrations, batches, losses."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import demonstrations as made
from away import learn
from loci.commands.record import record_tabletop
from loci.data.demonstrations import DemonstrationConfig, Demonstrations, encode, recorded
from loci.data.lerobot.dataset import Dataset
from loci.errors import LociError
from loci.geometry import Camera
from loci.io.checkpoint import load_checkpoint
from loci.memory import ActionHistory, Compose, FullHistory, Hybrid
from loci.models.action import ActionConfig
from loci.models.codecs.base import PixelCodecConfig
from loci.models.world_action import WorldActionModel
from loci.recipes.registry import recipes
from loci.recipes.tabletop import POLICY_ROWS, tabletop
from loci.training.folder import RunFolder
from loci.training.microbatches import Parts
from loci.training.policy import PolicyRun, PolicyTask, with_window
from loci.training.sampler import picked, picked_alike
from loci.training.trainer import fit
from tiny_policy import MEMORIES

LENGTHS = [37, 12, 20, 33]
LENGTHS_IN_CHUNKS = [5, 2, 3, 5]  # of 8 steps
CAMERA = Camera(height=32, width=48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("demonstrations")
    made.write(path, LENGTHS)
    return path


def small(folder: Path, memory=None, **changes) -> PolicyRun:
    """The recipe of the tabletop with a transformer that a test can wait for, and that predicts
    frames where they are learnt from."""
    run = tabletop("put-back-block", memory or Hybrid(anchors=1, window=2, gists_per_frame=2))
    model = run.model
    dit = replace(model.world.dit, dim=16, ffn_dim=24, num_heads=2, num_layers=2, freq_dim=8,
                  patch=(1, 2, 2), out_channels=192 if changes.get("video") else 0)
    world = replace(model.world, dit=dit, camera=CAMERA)
    expert = ActionConfig(dim=12, ffn_dim=16, text_dim=8, horizon=8)
    data = DemonstrationConfig(folder=str(folder), cameras=("head",))
    settings = {"batch": 3, "draws": 2, "lead": 0, **changes}
    return replace(run, model=replace(model, world=world, expert=expert), data=data, **settings)


def task(config: PolicyRun) -> PolicyTask:
    torch.manual_seed(0)
    built = config.task()
    with torch.no_grad():
        built.model.expert.head.weight.add_(0.1)  # zero at birth, which would hide its inputs
    return built


def test_frames_are_what_was_seen_before_their_chunks(folder):
    """Bit for bit, at every eighth step; actions in chunks, the rest padded and said to be so."""
    codec = PixelCodecConfig().build()
    for number, length in enumerate(LENGTHS):
        seen = recorded(Dataset.open(folder).episode(number), 8, ("head",))
        found = encode(*seen, codec, 8, CAMERA)
        truth = made.episode(number, length)
        count = -(-length // 8)
        assert found.latents.shape[:2] == (1, count)
        assert np.array_equal(codec.decode(found.latents.float())[0].numpy(),
                              truth[made.HEAD][::8])
        assert np.array_equal(found.proprio[0].numpy(), truth["observation.state"][::8])
        flat = found.actions[0].flatten(0, 1).numpy()
        assert np.array_equal(flat[:length], truth["action"])
        assert (flat[length:] == truth["action"][-1]).all()
        assert found.valid.flatten().tolist() == [n < length for n in range(8 * count)]


def test_a_codec_that_joins_images_gets_those_of_the_chunk_before(folder):
    """Two images a latent frame: steps 4 and 8 of each chunk, after the very first image."""
    asked = []

    class Joining(type(PixelCodecConfig().build())):
        images_per_frame = 2

        def encode(self, video):
            asked.append(video)
            return super().encode(video[:, ::2])

    codec = Joining(PixelCodecConfig())
    found = encode(*recorded(Dataset.open(folder).episode(0), 4, ("head",)), codec, 8, CAMERA)
    truth = made.episode(0, LENGTHS[0])[made.HEAD]
    assert np.array_equal(asked[0][0].numpy(), truth[:33:4])
    assert found.latents.shape[1] == 5
    with pytest.raises(LociError, match="do not split into 2 images"):
        DemonstrationConfig(folder=str(folder)).load(codec, 7, CAMERA)


def test_an_expert_watched_and_its_recording_are_the_same_demonstrations(tmp_path):
    record_tabletop("put-back-block", 2, tmp_path, quality="lossless")
    codec, camera = PixelCodecConfig().build(), Camera(height=96, width=80)
    watched, read = (
        config.load(codec, 16, camera) for config in (
            DemonstrationConfig(task="put-back-block", episodes=2),
            DemonstrationConfig(folder=str(tmp_path)),
        )
    )
    for field in fields(watched):
        assert torch.equal(getattr(watched, field.name), getattr(read, field.name)), field.name


def test_episodes_of_different_lengths_are_cut_to_the_longest_of_a_step(folder):
    data = DemonstrationConfig(folder=str(folder), cameras=("head",)).load(
        PixelCodecConfig().build(), 8, CAMERA
    )
    assert len(data) == len(LENGTHS)
    part = data.rows([1, 2])
    assert part.latents.shape[:2] == (2, 3)
    assert len(data.all_actions()) == sum(LENGTHS)
    assert len(data.all_proprio()) == sum(-(-n // 8) for n in LENGTHS)
    one = data.rows([1])
    joined = Demonstrations.join([one, data.rows([2])])
    assert all(torch.equal(getattr(joined, f.name), getattr(part, f.name)) for f in fields(part))


def test_a_step_is_a_pure_function_of_seed_and_step(folder):
    first, again = (task(small(folder, video=1.0)) for _ in range(2))
    for step in (0, 5):
        a, b = first.batch(step), again.batch(step)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
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
    assert loss.item() == pytest.approx(2 * metrics["actions"] + 0.5 * metrics["video"], rel=1e-5)


def test_parts_side_by_side_give_the_whole_batchs_gradient(folder):
    built = task(small(folder, video=1.0, ahead=2, windows=(1, 3)))
    parameters = [p for p in built.module.parameters() if p.requires_grad]
    results = []
    for threads in (1, 2):
        with Parts(threads) as parts:
            loss, _ = parts.backward(built.loss, built.batch(1), parameters)
        results.append((loss, [p.grad for p in parameters]))
    (loss, grads), (other, others) = results
    torch.testing.assert_close(loss, other)
    for grad, that in zip(grads, others, strict=True):
        assert (grad is None) == (that is None)
        if grad is not None:
            torch.testing.assert_close(grad, that, atol=1e-6, rtol=1e-4)


def test_frames_ahead_are_a_subset_that_changes_from_step_to_step(folder):
    built = task(small(folder, video=1.0, ahead=2))
    picks = [tuple(built.batch(step)["ahead"][0].tolist()) for step in range(8)]
    assert len(set(picks)) > 1
    for step, (first, second) in enumerate(picks):
        assert 1 <= first < second < built.batch(step)["latents"].shape[1]


def test_windows_vary_and_change_what_is_computed(folder):
    built = task(small(folder, windows=(1, 4)))
    batch = built.batch(0)
    seen = {int(built.batch(step)["window"][0]) for step in range(12)}
    assert seen == {1, 4}
    losses = [built.loss(batch | {"window": torch.full((3,), w)})[0] for w in (1, 4)]
    assert not torch.allclose(*losses)
    with pytest.raises(LociError, match="no window to vary"):
        small(folder, FullHistory(), windows=(1, 2))


def test_what_is_waited_for_can_take_longer(folder):
    """The first frame at which the robot goes on waiting is seen again, side by side, and what was
    done at it is asked for once; in half of the steps none is, and no other frame ever."""
    config = small(folder, FullHistory(), linger=3, clean_noise=0.0)
    built = task(config)
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
    assert torch.equal(built.data.waits(built.model.actions.scale), waits & whole)
    longer = 0
    for step in range(48):
        batch = built.batch(step)
        picks = picked(config.train.seed, step, config.batch, len(built.data))
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
    assert built.loss(batch)[0].isfinite()


def test_an_episode_of_one_frame_lingers():
    one = Demonstrations(
        torch.ones(2, 3, 1, 2, 2), torch.ones(2, 3, 1), torch.ones(2, 3, 4, 1),
        torch.tensor([[True, False, False], [True] * 3])[..., None].expand(2, 3, 4),
    )
    seen = one.lingering(torch.tensor([[0, 0, 0], [2, 0, 1]]))
    assert seen.valid.all(-1).tolist() == [
        [True] + 5 * [False], [False, False, True, True, False, True]
    ]
    alone = one.rows([0]).lingering(torch.tensor([[2]]))
    assert alone.valid.all(-1).tolist() == [[False, False, True]]


def test_time_goes_on_between_frames_in_a_share_of_the_steps(folder):
    found = {
        paused: ["pauses" in task(small(folder, pause=0.5, paused=paused)).batch(step)
                 for step in range(20)]
        for paused in (0.0, 0.5, 1.0)
    }
    assert not any(found[0.0])
    assert all(found[1.0])
    assert 3 < sum(found[0.5]) < 17


def test_episodes_of_a_step_are_alike_and_all_are_seen_as_often():
    lengths = np.random.default_rng(0).integers(10, 50, 40).tolist()
    plain = [picked(3, step, 4, 40) for step in range(20)]
    assert [picked_alike(3, step, 4, lengths, 1) for step in range(20)] == plain
    alike = [picked_alike(3, step, 4, lengths, 10) for step in range(20)]
    for epoch in (alike[:10], alike[10:]):
        assert sorted(sample for picks in epoch for sample in picks) == list(range(40))
    waste = [
        sum(max(lengths[p] for p in picks) - np.mean([lengths[p] for p in picks]) for picks in way)
        for way in (alike, plain)
    ]
    assert waste[0] < waste[1] / 3
    means = [np.mean([lengths[p] for p in picks]) for picks in alike[:10]]
    assert means not in (sorted(means), sorted(means, reverse=True))


@pytest.mark.parametrize("video", [0.0, 0.5])
def test_a_lead_is_the_first_frame_seen_again_and_teaches_nothing(folder, video):
    """The episode's own chunks and frames are all that is predicted, with the lead in memory."""
    built = task(small(folder, FullHistory(), video=video, lead=5, clean_noise=0.0))
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
        assert int(batch["ahead"].min()) > lead
        alone["ahead"] = batch["ahead"] - lead
    loss, _ = built.loss(batch)
    plain, _ = built.loss(alone)
    # Seen and weighed: more of the same keys change what is attended to.
    assert not torch.allclose(loss, plain)
    # But not asked for: what was done while it stood still does not exist.
    assert batch["noise"].shape[1] == 2 * batch["actions"].shape[1]
    # Who keeps one frame neither sees the lead nor is told of it.
    window = task(small(folder, Hybrid(anchors=0, window=1, gists_per_frame=0), video=video,
                        lead=5, clean_noise=0.0))
    batch = next(b for b in map(window.batch, range(24)) if b["latents"].shape[1]
                 == b["actions"].shape[1] + lead)
    alone = {k: v[:, lead:] if k in ("latents", "proprio", "clean_noise", "clean_time", "pauses")
             else v for k, v in batch.items()}
    if video:
        alone["ahead"] = batch["ahead"] - lead
    torch.testing.assert_close(window.loss(batch)[0], window.loss(alone)[0])


def test_a_memory_of_actions_learns_from_what_was_done(folder):
    """Chunks that were carried out are seen by what comes after them, with any window."""
    memory = Compose(members=(
        Hybrid(anchors=1, window=2, gists_per_frame=2), ActionHistory()
    ))
    built = task(small(folder, memory, windows=(1, 3)))
    batch = built.batch(0)
    model, flow = built.model, built.config.model.flow
    loss, _ = built.loss(batch)
    loss.backward()
    assert model.expert.encoder.weight.grad.abs().sum() > 0
    assert with_window(memory, 3).members[0].window == 3
    later = batch | {"actions": batch["actions"].clone()}
    later["actions"][:, 0] += 5.0
    # The first chunk's own loss aside, those of others change since they saw it.
    outputs = []
    for each in (batch, later):
        target = model.actions(batch["actions"]).repeat(1, 2, 1, 1)
        noisy = flow.path(target, batch["noise"], batch["time"][:, :, None, None])
        found, _ = model(batch["latents"], noisy, batch["time"],
            model.proprio(batch["proprio"]),
            after=[*range(batch["latents"].shape[1])] * 2, executed=model.actions(each["actions"]),
        )
        outputs.append(found[:, : batch["latents"].shape[1]])
    assert torch.equal(outputs[0][:, 0], outputs[1][:, 0])
    assert not torch.allclose(outputs[0][:, 1], outputs[1][:, 1])


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_a_policy_learns_away_from_the_host(folder, memory):
    config = small(
        folder, memory, attention="dense", linger=4, pause=0.3, lead=0 if memory.executed else 3
    )
    learn(config.task())


def test_a_run_leaves_a_policy_that_knows_its_scale(folder, tmp_path):
    config = small(folder)
    config = replace(config, train=replace(config.train, steps=3, warmup=1))
    run = RunFolder.open(tmp_path, config)
    built = task(config)
    config.finish(built.module, tmp_path, fit(built, config.train, run, threads=1))
    model = WorldActionModel.load(tmp_path / "model.safetensors")
    notes = load_checkpoint(tmp_path / "model.safetensors", config.kind).metadata
    assert notes["training"]["cameras"] == ["head"]
    episodes = [made.episode(n, length) for n, length in enumerate(LENGTHS)]
    actions = np.concatenate([one["action"] for one in episodes])
    low, high = actions.min(0), actions.max(0)
    np.testing.assert_allclose(model.actions.middle.numpy(), (low + high) / 2, rtol=1e-5)
    np.testing.assert_allclose(model.actions.scale.numpy(), (high - low) / 2, rtol=1e-5)


def test_demonstrations_drift_as_the_config_says():
    """The hands are elsewhere at every frame but the first, and meant to be where they were."""
    model = WorldActionModel.load("put-back-block-hybrid")
    steady, drifting = (
        DemonstrationConfig(task="put-back-block", episodes=1, steady=True, drift=drift).load(
            model.world.codec, 16, model.config.world.camera)
        for drift in (0.0, 0.02)
    )
    apart = (drifting.proprio - steady.proprio).abs()[0].amax(-1)
    assert apart[0] == 0
    assert apart[1:].median() > 0.005
    torch.testing.assert_close(drifting.actions[..., -1, :], steady.actions[..., -1, :])


@pytest.mark.parametrize(("settings", "message"), [
    ({}, "from a folder or from a task"),
    ({"folder": "x", "task": "put-back-block"}, "from a folder or from a task"),
    ({"task": "put-back-block"}, "how many episodes"),
    ({"folder": "x", "episodes": 0}, "1 or more"),
    ({"folder": "x", "drift": 0.01}, "leave it out for demonstrations that are there"),
])
def test_demonstrations_come_from_one_place(settings, message):
    with pytest.raises(LociError, match=message):
        DemonstrationConfig(**settings)


def test_a_dataset_that_is_too_small_says_so(folder):
    config = DemonstrationConfig(folder=str(folder), cameras=("head",), episodes=9)
    with pytest.raises(LociError, match="has 4 episodes, and 9 are wanted"):
        config.load(PixelCodecConfig().build(), 8, CAMERA)


def test_demonstrations_that_teach_nothing_are_named(folder, tmp_path):
    codec, dataset = PixelCodecConfig().build(), Dataset.open(folder)
    broken = dict(dataset.episode(1).columns)

    class Episode:
        index = 1

        def __init__(self, action):
            self.columns = broken | {"action": action}

        def __getitem__(self, name):
            return self.columns[name]

    for action, message in (
        (np.full((12, 14), np.nan), "'action' of episode 1 holds NaN"),
        (np.zeros((0, 14)), "'action' of episode 1 is empty"),
    ):
        with pytest.raises(LociError, match=message):
            recorded(Episode(action), 8, ("head",))
    made.write(tmp_path / "empty", [5])
    info = tmp_path / "empty" / "meta" / "info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"total_episodes": 0}))
    with pytest.raises(LociError, match="has no episodes to learn from"):
        DemonstrationConfig(folder=str(tmp_path / "empty")).load(codec, 8, CAMERA)
    with pytest.raises(LociError, match="no camera 'wrist_left'; did you mean 'left_wrist'"):
        DemonstrationConfig(
            task="press-button", episodes=1, cameras=("head", "wrist_left", "right_wrist")
        ).load(codec, 16, CAMERA)


@pytest.mark.parametrize(("change", "message"), [
    ({"clean_noise": 2.0}, "0 to 1"), ({"batch": 0}, "1 or more"), ({"draws": 0}, "1 or more"),
    ({"ahead": 0}, "1 or more"), ({"lead": -1}, "0 or more"), ({"linger": -1}, "0 or more"),
    ({"paused": 1.5}, "0 to 1"),
    ({"alike": 0}, "1 or more"),
    ({"actions": 0.0}, "weights"), ({"video": -1.0}, "weights"),
])
def test_settings_that_train_nothing_are_refused(folder, change, message):
    with pytest.raises(LociError, match=message):
        small(folder, **change)


def test_a_model_without_a_head_for_frames_learns_no_video_and_makes_none(folder):
    with pytest.raises(LociError, match="set video to 0"):
        replace(small(folder), video=1.0)
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
