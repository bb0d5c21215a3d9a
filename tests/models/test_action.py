"""The action expert, the model around it, and what a robot may get wrong."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from figures import figure_3
from loci.errors import LociError
from loci.memory import ROWS, Hybrid
from loci.models.action import ActionConfig, ActionExpert, interpolated, mirror
from loci.models.normalisation import Normalisation, Normaliser
from loci.models.wan import Wan, WanConfig
from loci.models.world_action import WorldActionConfig, WorldActionModel
from tiny_policy import (
    ACTIONS,
    HORIZON,
    MEMORIES,
    PROPRIO,
    TEXT,
    episodes,
    instructions,
    tiny_policy,
)

VIDEO = WanConfig(
    in_channels=4, out_channels=4, dim=24, ffn_dim=40, num_heads=2, num_layers=2, freq_dim=8,
    text_dim=TEXT, text_len=12,
)


def test_the_models_own_coordinates_give_the_published_mask():
    """Figure 3: three frames, A = R = 1, M = 1, and one action; here of four tokens a frame."""
    memory = Hybrid(anchors=1, window=1, gists_per_frame=1)
    model = tiny_policy(memory)
    frames = torch.arange(3)
    clean, drawn = model.world.positions.written(frames), model.expert.coords(frames)
    coords = type(clean).cat([clean, drawn])
    mask = memory.rule().mask(coords, coords)
    # One of the four tokens of a frame twice, its gist, then one action of each chunk.
    picks = [5 * frame + token for frame in range(3) for token in (0, 3, 4)]
    picks += [15 + HORIZON * chunk for chunk in range(3)]
    assert torch.equal(mask[picks][:, picks], figure_3())
    assert (mask[15:, 15:] == torch.block_diag(*[torch.ones(4, 4)] * 3).bool()).all()


def test_no_two_kinds_of_tokens_stand_at_one_place():
    model = tiny_policy(MEMORIES["hybrid"])
    frames = torch.arange(6)
    dit, coords = model.config.world.dit, model.world.positions.written(frames)
    still = torch.eye(4, dtype=torch.float64).expand(1, 6, 4, 4)
    seen = model.world.positions.rotary(coords, [(still, torch.zeros(1, 3))])
    done = model.expert.rotary(model.expert.coords(frames))
    apart = (seen[0, :, None] - done[0]).abs().amax(-1)
    assert apart.shape == (len(coords), 6 * HORIZON)
    assert seen.shape[-1] == dit.head_dim // 2
    assert apart.min() > 1e-6


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data())
def test_interpolation_runs_along_every_axis_with_aligned_corners(shape, data):
    target = [data.draw(st.integers(1, 7)) for _ in shape]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))

    def at(index):
        """Multilinear interpolation, corner by corner."""
        total = torch.zeros(())
        places = []
        for i, here, there in zip(index, target, shape, strict=True):
            place = 0.0 if here == 1 else i * (there - 1) / (here - 1)
            low = min(int(place), there - 1)
            places.append([(low, 1 - (place - low)), (min(low + 1, there - 1), place - low)])
        for corner in range(2 ** len(index)):
            share, where = 1.0, []
            for axis, place in enumerate(places):
                which, part = place[corner >> axis & 1]
                share, where = share * part, [*where, which]
            total = total + share * weight[tuple(where)]
        return total

    found = interpolated(weight, target)
    gain = (shape[-1] / target[-1]) ** 0.5 if len(shape) == 2 else 1.0
    for index in torch.cartesian_prod(*[torch.arange(n) for n in target]).view(-1, len(target)):
        where = tuple(index.tolist())
        torch.testing.assert_close(found[where], gain * at(where), atol=1e-5, rtol=1e-5)


def test_an_expert_of_the_same_width_begins_as_a_copy_of_the_video_transformer():
    torch.manual_seed(0)
    video = Wan(VIDEO)
    config = ActionConfig(dim=24, ffn_dim=40, text_dim=TEXT)
    expert = ActionExpert(config, VIDEO)
    kept = {name: p.clone() for name, p in expert.named_parameters()
            if name.startswith(("encoder", "head", "proprio"))}
    found = mirror(expert, video)
    there, here = dict(video.named_parameters()), dict(expert.named_parameters())
    assert {name for name in there if name.startswith(("blocks", "time", "text"))} == {*found}
    assert all(torch.equal(here[name], there[name]) for name in found)
    assert all(torch.equal(here[name], value) for name, value in kept.items())


def test_a_narrower_expert_begins_with_the_video_transformers_scale():
    torch.manual_seed(0)
    video, expert = Wan(VIDEO), ActionExpert(ActionConfig(dim=12, ffn_dim=20, text_dim=TEXT), VIDEO)
    mirror(expert, video)
    there, here = (dict(m.named_parameters()) for m in (video, expert))
    name = "blocks.0.ffn.0.weight"
    expected = interpolated(there[name], (20, 12))
    assert torch.equal(here[name], expected)
    heads = here["blocks.1.self_attn.q.weight"]
    assert heads.shape == (24, 12)
    lines = F.interpolate(there["blocks.1.self_attn.q.weight"][None], size=12, mode="linear",
                          align_corners=True)[0]
    torch.testing.assert_close(heads, lines * 2**0.5)


def test_the_robots_state_is_one_more_token_of_the_text():
    """Against attention over the joined text, padding and state, written out."""
    model = tiny_policy(MEMORIES["hybrid"], text=True)
    expert, words = model.expert, instructions()
    lengths = [7, 3]
    proprio = torch.randn(2, 3, PROPRIO, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        context = expert.context(proprio, expert.encode_text(words, lengths))
        x = torch.randn(2, 3, HORIZON, expert.sizes.dim)
        six = [part.unsqueeze(-2).expand(2, 3, 1, -1)
               for part in expert.blocks[0].modulation.unbind(-2)]
        block = expert.blocks[0]
        found = block.update(x, six, context, 0)
        for row in range(2):
            for chunk in range(3):
                padded = torch.zeros(12, TEXT)
                padded[: lengths[row]] = words[row, : lengths[row]]
                tokens = torch.cat([padded, expert.proprio_embedding(proprio[row, chunk])[None]])
                k, v = block.cross_attn.keys_values(expert.text_embedding(tokens)[None])
                q = block.cross_attn.queries(block.norm3(x[row, chunk])[None])
                y = block.cross_attn.output(F.scaled_dot_product_attention(q, k, v))
                part = [p[row : row + 1, chunk : chunk + 1] for p in six]
                moved = block.update(x[row, chunk][None, None] + y, part, None, 0)
                torch.testing.assert_close(found[row, chunk], moved[0, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mean-std", "min-max", "quantiles"])
def test_normalisation_is_undone_exactly_and_has_its_scale(kind):
    values = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 3 + 7
    values[:, 2] = 0.25
    scale = Normaliser(Normalisation(kind=kind), 4)
    scale.fit(values.view(50, 10, 4))
    normal = scale(values)
    torch.testing.assert_close(scale.inverse(normal), values, atol=1e-5, rtol=1e-5)
    moving = normal[:, [0, 1, 3]]
    if kind == "mean-std":
        torch.testing.assert_close(moving.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(moving.std(0, correction=0), torch.ones(3))
    elif kind == "min-max":
        torch.testing.assert_close(moving.amax(0), torch.ones(3))
        torch.testing.assert_close(moving.amin(0), -torch.ones(3))
    else:
        outside = (moving.abs() > 1 + 1e-5).float().mean(0)
        assert (outside <= 0.025).all()
        assert (outside > 0.005).all()
    assert (normal[:, 2] == 0).all()
    # What a network says of a constant is noise: it is the constant all the same.
    acted = scale.inverse(torch.randn(500, 4, generator=torch.Generator().manual_seed(1)))
    assert (acted[:, 2] == 0.25).all()
    assert scale(values + 0.5)[:, 2].unique().item() == 0.5  # what is seen of it keeps its unit


@pytest.mark.parametrize("kind", ["mean-std", "min-max", "quantiles"])
def test_a_number_that_moves_rarely_is_no_constant(kind):
    values = torch.full((1000, 1), 0.3)
    values[::250] = 1.0
    scale = Normaliser(Normalisation(kind=kind), 1)
    scale.fit(values)
    torch.testing.assert_close(scale.inverse(scale(values)), values)


def test_statistics_stay_whole_where_weights_go_to_half_precision():
    values = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 3 + 7
    scale = Normaliser(Normalisation(), 4)
    scale.fit(values)
    exact = scale(values)
    half = torch.nn.ModuleDict({"scale": scale}).bfloat16()["scale"]
    assert torch.equal(half(values), exact)
    with torch.device("meta"):
        empty = Normaliser(Normalisation(), 4)
    assert empty.to_empty(device="cpu").middle.device.type == "cpu"


def test_statistics_travel_in_the_checkpoint(tmp_path):
    model = tiny_policy(MEMORIES["hybrid"])
    model.actions.fit(torch.randn(100, ACTIONS) * 5)
    model.save(tmp_path / "policy.safetensors")
    again = WorldActionModel.load(tmp_path / "policy.safetensors")
    assert again.config == model.config
    data = episodes(model, 4)
    for name in ("actions", "proprio"):
        here, there = getattr(model, name), getattr(again, name)
        assert torch.equal(here.middle, there.middle)
        assert torch.equal(here.scale, there.scale)
    actions = []
    for each in (model, again):
        policy = each.policy(2)
        policy.observe_latents(data["latents"], data["proprio"][:, 3])
        actions.append(policy.act(data["actions"][:, 3]))
    assert torch.equal(*actions)


def test_shared_modulation_of_fixed_times_is_that_of_each_row():
    model = tiny_policy(MEMORIES["hybrid"])
    data = episodes(model, 3)
    policy = model.policy(2)
    policy.observe_latents(data["latents"], data["proprio"][:, 2])
    with torch.no_grad():
        known = policy.denoise(policy.read(), data["actions"][:, 0], 0.4)
        fresh = policy.denoise(policy.read(), data["actions"][:, 0], torch.full((2,), 0.4))
    torch.testing.assert_close(known, fresh, atol=1e-6, rtol=1e-6)


def test_times_that_are_known_beforehand_change_nothing():
    model = tiny_policy(MEMORIES["hybrid"])
    data = episodes(model, 3)
    policy = model.policy(2)
    policy.observe_latents(data["latents"], data["proprio"][:, 2])
    reading = policy.read()
    reading.modulations.update(model.expert.modulations([1.0, 0.5]))
    with torch.no_grad():
        known = policy.denoise(reading, data["actions"][:, 0], 0.5)
        fresh = policy.denoise(policy.read(), data["actions"][:, 0], 0.5)
    torch.testing.assert_close(known, fresh, atol=1e-6, rtol=1e-6)
    with torch.inference_mode():
        inside = tiny_policy(MEMORIES["hybrid"]).policy(2)
        inside.observe_latents(data["latents"], data["proprio"][:, 2])
        found = inside.act(data["actions"][:, 0])
    assert torch.equal(found, policy.act(data["actions"][:, 0]))


def test_an_act_is_made_with_the_weights_and_the_precision_of_now():
    """What is made of the times belongs to the reading: nothing of an earlier act is left."""
    model = tiny_policy(MEMORIES["hybrid"])
    data = episodes(model, 3)
    noise, policy = data["actions"][:, 0], model.policy(2)
    policy.observe_latents(data["latents"], data["proprio"][:, 2])
    before = policy.act(noise)
    with torch.autocast("cpu", torch.bfloat16):
        policy.act(noise)
    assert torch.equal(policy.act(noise), before)
    with torch.no_grad():
        model.expert.time_embedding[0].weight.add_(1.0)
    after = policy.act(noise)
    assert not torch.allclose(after, before, atol=1e-2)
    assert torch.equal(after, policy.act(noise))
    with torch.no_grad():
        model.expert.time_embedding[0].weight.sub_(1.0)
    torch.testing.assert_close(policy.act(noise), before)


def test_states_of_other_frames_are_refused():
    model = tiny_policy(MEMORIES["hybrid"])
    data = episodes(model, 4)
    with pytest.raises(LociError, match="give one a frame"):
        model(data["latents"][:, :3], data["actions"][:, :3],
                       torch.rand(2, 3), data["proprio"])


def test_a_reading_is_good_until_its_robots_observe_again():
    model = tiny_policy(MEMORIES["hybrid"])
    data = episodes(model, 5)
    policy, chunk = model.policy(2), data["actions"][:, 0]
    policy.observe_latents(data["latents"][:, :3], data["proprio"][:, 2])
    reading, first = policy.read(), policy.read([0])
    out = policy.denoise(reading, chunk, 0.5)
    assert torch.equal(policy.denoise(reading, chunk, 0.5), out)
    alone = policy.denoise(first, chunk[:1], 0.5)
    torch.testing.assert_close(alone, out[:1])
    policy.observe_latents(data["latents"][1:, 3:4], data["proprio"][1:, 3], streams=[1])
    assert torch.equal(policy.denoise(first, chunk[:1], 0.5), alone)
    with pytest.raises(LociError, match="stream 1 was written"):
        policy.denoise(reading, chunk, 0.5)
    with pytest.raises(LociError, match=r"in chunks of \(1, 4, 5\)"):
        policy.denoise(first, chunk, 0.5)
    with pytest.raises(LociError, match="exactly one row"):
        policy.read([0, 0])


def test_a_memory_in_place_of_the_models_own_is_another_rule_for_the_same_weights():
    wide, narrow = tiny_policy(Hybrid(anchors=1, window=4, gists_per_frame=2)), Hybrid(
        anchors=1, window=2, gists_per_frame=2)
    model = tiny_policy(narrow)
    model.load_state_dict(wide.state_dict())
    data = episodes(model, 8)
    inputs = [data[name] for name in ("latents", "actions", "time", "proprio")]
    with torch.no_grad():
        expected, _ = model(*inputs)
        for form in ("dense", "windowed"):
            found, _ = wide(*inputs, memory=narrow, attention=form)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(wide(*inputs)[0], expected)


def test_pauses_move_later_frames_in_time_and_change_nothing_else():
    """The same pause before everything is none at all, since places only meet through their
    differences; one in the middle leaves what came before it as it was."""
    model = tiny_policy(MEMORIES["hybrid"])
    data = episodes(model, 8)
    inputs = [data[name] for name in ("latents", "actions", "time", "proprio")]
    ahead = {"noisy": data["noisy"], "time": data["noisy_time"], "ahead": range(1, 8)}
    first, middle = torch.zeros(2, 2, 8, dtype=torch.long)
    first[:, 0], middle[1, 4] = 9, 6
    with torch.no_grad():
        plain = model(*inputs, **ahead)
        early = model(*inputs, **ahead, pauses=first)
        later = model(*inputs, **ahead, pauses=middle)
        dense = model(*inputs, **ahead, pauses=middle, attention="dense")
    for found, expected in zip(early, plain, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for found, expected in zip(later, dense, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    (actions, frames), (same, video) = later, plain
    torch.testing.assert_close(actions[0], same[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(actions[1, :4], same[1, :4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(frames[1, :3], video[1, :3], atol=1e-5, rtol=1e-5)
    assert (actions[1, 4:] - same[1, 4:]).abs().amax((1, 2)).min() > 1e-4
    assert (frames[1, 3:] - video[1, 3:]).abs().flatten(1).amax(1).min() > 1e-4


def begun():
    model = tiny_policy(MEMORIES["hybrid"])
    data = episodes(model, 4)
    policy = model.policy(2)
    policy.observe_latents(data["latents"], data["proprio"][:, 3])
    return policy


@pytest.mark.parametrize(("attempt", "message"), [
    (lambda p: p.observe(torch.zeros(2, 1, 32, 40, 3, dtype=torch.uint8), torch.zeros(2, PROPRIO)),
     "its mosaic of all cameras"),
    (lambda p: p.observe(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.zeros(2, PROPRIO)),
     "its mosaic of all cameras"),
    (lambda p: p.observe(torch.zeros(2, 1, 32, 32, 3), torch.zeros(2, PROPRIO)), "convert it"),
    (lambda p: p.observe(torch.zeros(2, 1, 32, 32, 3, dtype=torch.uint8),
                         torch.full((2, PROPRIO), torch.nan)), "NaN or infinity"),
    (lambda p: p.observe(torch.zeros(2, 1, 32, 32, 3, dtype=torch.uint8), torch.zeros(2, 3)),
     "a row a robot"),
    (lambda p: p.observe_latents(torch.full((2, 1, 8, 4, 4), torch.inf), torch.zeros(2, PROPRIO)),
     "NaN or infinity"),
    (lambda p: p.act(torch.zeros(2, HORIZON, ACTIONS + 1)), r"noise of shape .*; give \(2, 4, 5\)"),
    (lambda p: p.act(torch.full((2, HORIZON, ACTIONS), torch.nan)), "NaN or infinity in noise"),
    (lambda p: p.act(torch.zeros(1, HORIZON, ACTIONS)), "exactly one row"),
    (lambda p: p.act(torch.zeros(2, HORIZON, ACTIONS), steps=0), "1 or more"),
    (lambda p: p.act(torch.zeros(2, HORIZON, ACTIONS), temperature=-0.1), "use 0 to 1"),
    (lambda p: p.observe(torch.zeros(2, 4, 32, 32, 3, dtype=torch.uint8), torch.zeros(2, PROPRIO)),
     "4 images for robot 0; give 1"),
    (lambda p: p.observe(torch.zeros(2, 0, 32, 32, 3, dtype=torch.uint8), torch.zeros(2, PROPRIO)),
     "0 images for robot 0; give 1"),
    (lambda p: p.init(torch.zeros(3, 7, TEXT)), "3 instructions for 2 robots"),
    (lambda p: p.restore({}), "no snapshot of a policy"),
])
def test_what_a_robot_gets_wrong_changes_nothing(attempt, message):
    policy = begun()
    before = policy.snapshot()
    with pytest.raises(LociError, match=message):
        attempt(policy)
    after = policy.snapshot()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_acting_comes_after_observing():
    policy = tiny_policy(MEMORIES["full"]).policy()
    with pytest.raises(LociError, match="observe the scene before acting"):
        policy.act(torch.zeros(1, HORIZON, ACTIONS))


@pytest.mark.parametrize(("name", "message"), [
    ("context-5", "camera poses"), ("joint-5", "camera poses"), ("ssm", "whole frames"),
    ("spatial", "whole frames"),
])
def test_memories_that_no_robot_can_have_are_refused(name, message):
    with pytest.raises(LociError, match=message):
        tiny_policy(ROWS[name])


def test_configurations_that_make_no_policy():
    config = tiny_policy(MEMORIES["full"]).config
    world = dataclasses.replace(config.world, chunk=2)
    with pytest.raises(LociError, match="chunk to 1"):
        dataclasses.replace(config, world=world)
    with pytest.raises(LociError, match="1 or more"):
        dataclasses.replace(config, steps=0)
    for temperature in (-0.1, 1.1, math.nan):
        with pytest.raises(LociError, match="temperature"):
            dataclasses.replace(config, temperature=temperature)


def test_temperature_scales_the_noise_and_nothing_else(monkeypatch):
    policy = begun()
    noise, other = torch.randn(2, 2, HORIZON, ACTIONS).unbind(0)
    assert torch.equal(policy.act(noise, temperature=0.25), policy.act(noise / 4))
    assert torch.equal(policy.act(noise, temperature=0), policy.act(other, temperature=0))
    assert not torch.allclose(policy.act(noise), policy.act(other))
    # The model's own, where none is given.
    cool = dataclasses.replace(policy.model.config, temperature=0.25)
    monkeypatch.setattr(policy.model, "config", cool)
    assert torch.equal(policy.act(noise), policy.act(noise, temperature=0.25))
    assert torch.equal(policy.act(noise, temperature=1), policy.act(4 * noise))


def test_a_configuration_round_trips():
    config = tiny_policy(MEMORIES["rnn"], text=True).config
    assert WorldActionConfig.from_json(config.to_json()) == config
    with pytest.raises(LociError, match="width"):
        ActionExpert(ActionConfig(dim=8, ffn_dim=8, text_dim=5), VIDEO)
