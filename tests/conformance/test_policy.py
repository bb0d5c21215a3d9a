"""What training sees is what a robot sees: packed episodes and the policy in closed loop."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from garbage import left_to_collect
from host import asked_of_the_host
from loci.models.world_action import NO_TEXT
from loci.streaming.policy import Policy
from tiny_policy import (
    ACTIONS,
    HORIZON,
    MEMORIES,
    PROPRIO,
    episodes,
    instructions,
    tiny_policy,
    watch,
)
from tiny_world import same

FRAMES, BATCH = 13, 2


# One row that keeps tokens and one that carries states show what action history does to others.
HISTORY = ("hybrid-acts", "rnn-ttt-acts")


@pytest.fixture(params=[
    pytest.param(name, marks=pytest.mark.slow)
    if name.endswith("-acts") and name not in HISTORY else name
    for name in sorted(MEMORIES)
])
def name(request) -> str:
    return request.param


def packed(model, data, form, texts=NO_TEXT, video=True):
    extra = {}
    if video:
        ahead = list(range(1, FRAMES))
        extra = {"noisy": data["noisy"], "time": data["noisy_time"], "ahead": ahead}
    return model(data["latents"], data["actions"], data["time"], model.proprio(data["proprio"]),
        executed=data["executed"], attention=form, texts=texts, **extra,
    )


def streamed(model, data, text=None):
    """Every chunk predicted by a policy that observes one frame after the other."""
    policy, outputs = model.policy(BATCH, capacity=2, gradients=True).init(text), []
    for t in range(FRAMES):
        watch(policy, data, range(t, t + 1))
        outputs.append(policy.denoise(policy.read(), data["actions"][:, t], data["time"][:, t]))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize(
    "text", [pytest.param(False, marks=pytest.mark.slow), True], ids=["untold", "told"]
)
def test_packed_equals_closed_loop_in_values_and_gradients(name, text):
    model = tiny_policy(MEMORIES[name], text)
    data, words = episodes(model, FRAMES), instructions() if text else None
    results = []
    for form in ("dense", "windowed", "stream"):
        latents = data["latents"].clone().requires_grad_()
        actions = data["actions"].clone().requires_grad_()
        executed = data["executed"].clone().requires_grad_()
        here = data | {"latents": latents, "actions": actions, "executed": executed}
        model.zero_grad()
        if form == "stream":
            output = streamed(model, here, words)
        else:
            output, _ = packed(model, here, form, model.read_text(words))
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters()
                 if p.grad is not None and p.grad.any()}
        grads |= {"latents": latents.grad, "actions": actions.grad}
        grads |= {"executed": executed.grad} if executed.grad is not None else {}
        assert ("executed" in grads) == (model.history > 0)
        results.append((output.detach(), grads))
    expected, wanted = results[0]
    for output, grads in results[1:]:
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
        assert grads.keys() == wanted.keys()
        for key, grad in wanted.items():
            scale = max(1.0, grad.abs().max().item())
            assert (grad - grads[key]).abs().max().item() < 2e-5 * scale, key


def test_frames_ahead_change_no_action_and_are_the_same_in_both_forms(name):
    model = tiny_policy(MEMORIES[name])
    data = episodes(model, FRAMES)
    with torch.no_grad():
        alone, nothing = packed(model, data, "windowed", video=False)
        actions, video = packed(model, data, "windowed")
        reference = packed(model, data, "dense")
    assert nothing is None
    torch.testing.assert_close(actions, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(video, reference[1], atol=1e-5, rtol=1e-5)


def test_recomputed_blocks_and_chunks_in_any_number_give_the_same(name):
    """With blocks recomputed in the backward pass, and each frame's chunk drawn twice."""
    model = tiny_policy(MEMORIES[name])
    data = episodes(model, FRAMES)
    results = []
    for recompute in (False, True):
        model.zero_grad()
        twice = [torch.cat([data[key]] * 2, dim=1) for key in ("actions", "time")]
        after = [*range(FRAMES)] * 2
        output, _ = model(data["latents"], *twice, model.proprio(data["proprio"]), after=after,
            executed=data["executed"], recompute=recompute,
        )
        output.square().mean().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((output.detach(), grads))
    (output, grads), (again, others) = results
    assert torch.equal(output, again)
    assert grads.keys() == others.keys()
    assert all(torch.equal(grad, others[key]) for key, grad in grads.items())
    torch.testing.assert_close(output[:, :FRAMES], output[:, FRAMES:], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        single, _ = packed(model, data, "windowed", video=False)
    torch.testing.assert_close(output[:, :FRAMES], single, atol=1e-5, rtol=1e-5)


def test_nobody_sees_the_future_or_what_others_denoise(name):
    """A chunk changes with nothing that comes later, with no other chunk and no noisy frame."""
    model = tiny_policy(MEMORIES[name])
    data = episodes(model, FRAMES)
    t = 6
    with torch.no_grad():
        before, frames = packed(model, data, "dense")
        later = {key: value.clone() for key, value in data.items()}
        later["latents"][:, t + 1 :] += 1
        later["actions"][:, t + 1 :] += 1
        later["actions"][:, :t] += 1
        later["proprio"][:, t + 1 :] += 1
        later["executed"][:, t:] += 1
        later["noisy"][:, :t] += 1
        later["noisy"][:, t + 1 :] += 1
        after, others = packed(model, later, "dense")
    torch.testing.assert_close(after[:, t], before[:, t], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(after[:, t + 1], before[:, t + 1])
    # The frame ahead of t is number t of the noisy ones: it never saw its own clean copy.
    torch.testing.assert_close(others[:, t], frames[:, t], atol=1e-6, rtol=1e-6)


def test_what_was_done_is_known_from_the_next_frame_on_where_it_is_kept(name):
    model = tiny_policy(MEMORIES[name])
    data = episodes(model, FRAMES)
    other = data | {"executed": data["executed"].clone()}
    other["executed"][:, 3] += 1
    with torch.no_grad():
        before, after = (packed(model, each, "windowed", video=False)[0] for each in (data, other))
    changed = (after - before).flatten(2).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [model.history > 0 and t > 3 for t in range(FRAMES)]


def act(policy, seed: int = 0, steps: int = 3):
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(policy.batch, HORIZON, ACTIONS, generator=draw)
    return policy.act(noise, steps)


def test_acting_changes_nothing_and_forks_go_their_own_way(name):
    model = tiny_policy(MEMORIES[name])
    data = episodes(model, FRAMES)
    policy = model.policy(BATCH)
    watch(policy, data, range(5))
    before, first = policy.snapshot(), act(policy)
    for seed in range(3):
        act(policy, seed)
    assert same(policy.snapshot(), before)
    assert torch.equal(act(policy), first)
    fork = policy.fork()
    watch(fork, data, range(5, 6))
    assert torch.equal(act(policy), first)
    assert not torch.equal(act(fork), first)
    assert torch.equal(act(fork.restore(before)), first)


def test_ragged_robots_equal_each_alone(name):
    """Three robots, begun at different times, two of them interleaved with a third."""
    model = tiny_policy(MEMORIES[name])
    data = episodes(model, FRAMES, batch=3)
    many, starts = model.policy(3, capacity=2), [0, 2, 5]
    alone = [model.policy() for _ in starts]
    for t in range(9):
        awake = [n for n, start in enumerate(starts) if t >= start]
        at = torch.tensor([t - starts[n] for n in awake])
        latents, proprio = data["latents"][awake, at][:, None], data["proprio"][awake, at]
        noise = data["actions"][awake, at]
        done = model.actions.inverse(data["executed"][awake, at - 1])
        for rows, known in ((at == 0, None), (at > 0, done[at > 0])):
            if rows.any():
                who = [n for n, row in zip(awake, rows, strict=True) if row]
                many.observe_latents(latents[rows], proprio[rows], known, who)
        together = many.act(noise, 3, awake)
        for row, n in enumerate(awake):
            known = done[row : row + 1] if at[row] else None
            alone[n].observe_latents(latents[row : row + 1], proprio[row : row + 1], known)
            single = alone[n].act(noise[row : row + 1], 3)
            torch.testing.assert_close(together[row : row + 1], single, atol=1e-5, rtol=1e-5)
    many.reset([1])
    assert many.lengths == [9, 0, 4]


def resume(name: str, folder: Path) -> np.ndarray:
    """What a policy goes on with from the memory and the data in `folder`."""
    data, model = torch.load(folder / "data.pt"), tiny_policy(MEMORIES[name], text=True)
    policy = Policy.load(model, folder / "memory.safetensors")
    policy.observe(data["images"], data["proprio"], data["executed"])
    return act(policy).numpy()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """Another process, which shares nothing with this one; one for all, as it starts slowly."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def test_a_policy_from_disk_continues_to_the_same_actions(name, tmp_path, elsewhere):
    model = tiny_policy(MEMORIES[name], text=True)
    policy = model.policy(BATCH).init(instructions())
    draw = torch.Generator().manual_seed(4)
    executed = None
    for _ in range(5):
        images = torch.randint(256, (BATCH, 1, 32, 32, 3), dtype=torch.uint8, generator=draw)
        proprio = torch.randn(BATCH, PROPRIO, generator=draw)
        policy.observe(images, proprio, executed)
        executed = torch.randn(BATCH, HORIZON, ACTIONS, generator=draw)
    policy.save(tmp_path / "memory.safetensors")
    data = {"images": images, "proprio": proprio, "executed": executed}
    torch.save(data, tmp_path / "data.pt")
    policy.observe(images, proprio, executed)
    found = elsewhere.submit(resume, name, tmp_path).result()
    np.testing.assert_allclose(found, act(policy).numpy(), atol=1e-5)


def test_a_step_asks_nothing_of_the_host(name):
    """So that a CUDA graph can hold it."""
    model = tiny_policy(MEMORIES[name])
    data = episodes(model, 9)
    with torch.no_grad():
        policy = watch(model.policy(BATCH), data, range(9))
        reading, noise = policy.read(), data["actions"][:, 0]
        assert asked_of_the_host(lambda: policy.denoise(reading, noise, 0.7)) == []


def test_nothing_is_left_to_the_garbage_collector(name):
    model = tiny_policy(MEMORIES[name], text=True)
    data, policy = episodes(model, 9), model.policy(BATCH).init(instructions(BATCH))

    def live() -> None:
        watch(policy, data, range(2))
        policy.act(data["actions"][:, 1])
        policy.reset()

    assert left_to_collect(live) == []
