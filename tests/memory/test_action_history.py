"""Actions that were carried out: who sees them, what is held of them, and what is refused."""

from __future__ import annotations

import pytest
import torch

from figures import figure_3
from loci.errors import LociError
from loci.memory import ROWS, ActionHistory, Compose, FullHistory, Hybrid, Memory, NoMemory, Tower
from loci.rules import drawing
from loci.rules.rule import Coords, Kind
from tiny_policy import ACTIONS, HORIZON, MEMORIES, PROPRIO, episodes, tiny_policy, watch
from tiny_world import same

SMALL = Hybrid(anchors=1, window=1, gists_per_frame=1)


def figure_3_with_history() -> torch.Tensor:
    """The published mask, of one token a frame, with what was done after the first two frames.

    Order: f0 g0 e0 f1 g1 e1 f2 g2 a0 a1 a2, written down by hand.
    """
    rows = """
    11000000000
    11000000000
    11100000000
    11111000000
    11111000000
    11111100000
    11101111000
    11101111000
    11000000100
    11111000010
    11101111001
    """
    return torch.tensor([[c == "1" for c in row] for row in rows.split()])


def test_the_mask_is_the_published_one_with_what_was_done_in_it():
    memory = Compose(members=(SMALL, ActionHistory()))
    coords = drawing.episode_coords(3, tokens=1, gists=1, actions=1, executed=1)
    coords = coords[coords.kind != int(Kind.NOISY)]
    assert " ".join(drawing.labels(coords)) == "f0 g0 e0 f1 g1 e1 f2 g2 a0 a1 a2"
    mask = memory.rule().mask(coords, coords)
    assert torch.equal(mask, figure_3_with_history())
    seen = coords.kind != int(Kind.EXECUTED)
    one = [1, 2, 4, 5, 7, 8, 9, 10, 11]  # of the two tokens of each frame there, the second
    published = figure_3()[one][:, one]
    assert torch.equal(mask[seen][:, seen], published)
    assert torch.equal(SMALL.rule().mask(coords[seen], coords[seen]), published)


def test_predicted_frames_see_what_was_done_before_the_last_frame_that_they_know():
    memory = Compose(members=(FullHistory(), ActionHistory()))
    coords = drawing.episode_coords(4, tokens=1, gists=0, executed=1)
    names = drawing.labels(coords)
    mask = memory.rule().mask(coords, coords)
    seen = {name: {names[k] for k in row.nonzero()[:, 0].tolist() if names[k][0] == "e"}
            for name, row in zip(names, mask, strict=True)}
    assert seen["n1"] == set()
    assert seen["n2"] == {"e0"}
    assert seen["n3"] == {"e0", "e1"}
    assert seen["f3"] == {"e0", "e1", "e2"}


def test_the_models_own_coordinates_give_that_mask():
    model = tiny_policy(Compose(members=(SMALL, ActionHistory())))
    frames = torch.arange(3)
    parts = [
        model.world.positions.written(frames), model.expert.coords(frames[:2], 3, Kind.EXECUTED),
        model.expert.coords(frames),
    ]
    mask = model.config.world.memory.rule().mask(Coords.cat(parts), Coords.cat(parts))
    # The last token of each frame and its gist, then one action of each chunk.
    f, g, e = [3, 8, 13], [4, 9, 14], [15, 15 + HORIZON]
    picks = [f[0], g[0], e[0], f[1], g[1], e[1], f[2], g[2]]
    picks += [15 + (2 + chunk) * HORIZON for chunk in range(3)]
    assert torch.equal(mask[picks][:, picks], figure_3_with_history())
    assert (mask[15:, 15:].diagonal()).all()


@pytest.mark.parametrize("memory", [SMALL, FullHistory(), NoMemory(), MEMORIES["ttt"], Tower()])
def test_a_stream_keeps_every_chunk_and_all_else_as_before(memory):
    composed = Compose(members=(memory, ActionHistory()))
    kept, alone = composed.retention(), memory.retention()
    assert kept.kept(Kind.EXECUTED, 50) == 49
    assert alone.kept(Kind.EXECUTED, 50) == 0
    for frames in (1, 2, 50):
        assert kept.kept(Kind.CLEAN, frames) == alone.kept(Kind.CLEAN, frames)
        here, there = (m.tokens_held(frames, 16, 4) for m in (composed, memory))
        assert here == there + 4 * (frames - 1)
    assert composed.growth == "linear"


@pytest.mark.parametrize("name", sorted(MEMORIES))
def test_a_stream_holds_what_the_memory_promises(name):
    """With history n (N - 1) tokens more than without, in slots that others lack."""
    model = tiny_policy(MEMORIES[name])
    data, policy = episodes(model, 9), model.policy(2)
    memory, tokens = MEMORIES[name], model.world.tokens
    for frame in range(9):
        watch(policy, data, range(frame, frame + 1))
        held = memory.tokens_held(frame + 1, tokens, HORIZON)
        assert policy.stream.tokens(1) == held
        kinds = policy.stream.kv.tables[0].spans.coords.kind
        assert int((kinds == int(Kind.EXECUTED)).sum()) == (model.history > 0) * frame


def test_what_was_done_is_read_with_the_state_that_it_was_begun_in():
    model = tiny_policy(MEMORIES["hybrid-acts"])
    data = episodes(model, 3)
    other = data | {"proprio": data["proprio"].clone()}
    other["proprio"][:, 0] += 1
    acts = []
    for each in (data, other):
        policy = watch(model.policy(2), each, range(3))
        acts.append(policy.act(data["actions"][:, 2]))
    assert not torch.equal(*acts)
    plain = tiny_policy(MEMORIES["hybrid"])
    acts = [watch(plain.policy(2), each, range(3)).act(data["actions"][:, 2])
            for each in (data, other)]
    assert torch.equal(*acts)


def test_a_reset_robot_begins_without_a_history():
    model = tiny_policy(MEMORIES["hybrid-acts"])
    data = episodes(model, 5)
    used = watch(model.policy(2), data, range(5))
    used.reset()
    fresh = watch(model.policy(2), data, range(3))
    assert same(watch(used, data, range(3)).snapshot(), fresh.snapshot())


DONE = torch.zeros(2, HORIZON, ACTIONS)
LATENTS, STATE = torch.zeros(2, 1, 8, 4, 4), torch.zeros(2, PROPRIO)
IMAGES = torch.zeros(2, 1, 32, 32, 3, dtype=torch.uint8)


@pytest.mark.parametrize(("attempt", "message"), [
    (lambda p: p.observe(IMAGES, STATE), r"robots \[0, 1\] carried out"),
    (lambda p: p.observe_latents(LATENTS, STATE), r"robots \[0, 1\] carried out"),
    (lambda p: p.observe(IMAGES, STATE, DONE[..., :-1]), "the whole chunk, a row a robot"),
    (lambda p: p.observe(IMAGES, STATE, DONE[:, :-1]), "the whole chunk, a row a robot"),
    (lambda p: p.observe(IMAGES, STATE, DONE[:1]), "the whole chunk, a row a robot"),
    (lambda p: p.observe(IMAGES, STATE, DONE * torch.nan), "NaN or infinity in executed"),
    (lambda p: p.observe_latents(LATENTS.expand(2, 2, 8, 4, 4), STATE, DONE), "one frame after"),
    (lambda p: p.observe_latents(LATENTS * torch.nan, STATE, DONE), "NaN or infinity in latents"),
    (lambda p: p.observe_latents(LATENTS[..., :-1], STATE, DONE), "from its own codec"),
    (lambda p: p.observe_latents(LATENTS[:, 0, 0, 0, 0], STATE, DONE), "from its own codec"),
])
@pytest.mark.parametrize("graph", [False, True])
def test_what_a_robot_gets_wrong_changes_nothing(attempt, message, graph):
    model = tiny_policy(MEMORIES["hybrid-acts"])
    data = episodes(model, 5)
    policy = watch(model.policy(2, gradients=graph), data, range(3))
    before = policy.snapshot()
    with pytest.raises(LociError, match=message) as error:
        attempt(policy)
    assert "\n" not in str(error.value)
    assert same(policy.snapshot(), before)
    unharmed = watch(model.policy(2, gradients=graph), data, range(5))
    assert same(watch(policy, data, range(3, 5)).snapshot(), unharmed.snapshot())


@pytest.mark.parametrize("name", ["hybrid", "hybrid-acts"])
def test_a_robot_that_begins_has_done_nothing_yet(name):
    model = tiny_policy(MEMORIES[name])
    policy = model.policy(2)
    with pytest.raises(LociError, match=r"robots \[0, 1\] begin an episode"):
        policy.observe_latents(LATENTS, STATE, DONE)
    policy.observe_latents(LATENTS, STATE)
    policy.reset([1])
    with pytest.raises(LociError, match=r"robots \[1\] begin an episode"):
        policy.observe_latents(LATENTS, STATE, DONE)
    assert policy.lengths == [1, 0]


def test_where_it_is_not_kept_it_is_checked_and_unused():
    model = tiny_policy(MEMORIES["hybrid"])
    data = episodes(model, 2)
    told, untold = (watch(model.policy(2), data, range(1)) for _ in range(2))
    latents, state = data["latents"][:, 1:], data["proprio"][:, 1]
    with pytest.raises(LociError, match="NaN or infinity"):
        told.observe_latents(latents, state, DONE * torch.inf)
    with pytest.raises(LociError, match="the whole chunk"):
        told.observe_latents(latents, state, DONE[..., 1:])
    told.observe_latents(latents, state, DONE)
    untold.observe_latents(latents, state)
    assert same(told.snapshot(), untold.snapshot())


@pytest.mark.parametrize(("change", "message"), [
    ({"executed": None}, "give the `executed` chunks too"),
    ({"executed": torch.zeros(2, 2, HORIZON, ACTIONS)}, r"\(2, 3, 4, 5\)"),
    ({"executed": torch.zeros(2, 3, HORIZON, ACTIONS + 1)}, r"\(2, 3, 4, 5\)"),
    ({"executed": torch.zeros(2, 3)}, r"\(2, 3, 4, 5\)"),
])
def test_packed_episodes_want_what_was_done_between_their_frames(change, message):
    model = tiny_policy(MEMORIES["hybrid-acts"])
    data = episodes(model, 4)
    inputs = [data[name] for name in ("latents", "actions", "time", "proprio")]
    with pytest.raises(LociError, match=message):
        model(*inputs, **change)


def test_chunks_in_any_order_are_told_the_state_of_their_frame():
    """What was done is read with its own frame's state too, whatever chunks are predicted."""
    model = tiny_policy(MEMORIES["hybrid-acts"])
    data = episodes(model, 4)
    latents, actions, time, proprio = (
        data[name] for name in ("latents", "actions", "time", "proprio")
    )
    order, done = [3, 0, 2], torch.randn(2, 3, HORIZON, ACTIONS)
    with torch.no_grad():
        whole, _ = model(latents, actions, time, proprio, executed=done)
        some, _ = model(
            latents, actions[:, order], time[:, order], proprio, after=order, executed=done
        )
    torch.testing.assert_close(some, whole[:, order], atol=1e-5, rtol=1e-5)


def test_the_chunk_after_the_last_frame_is_seen_by_nobody():
    model = tiny_policy(MEMORIES["hybrid-acts"])
    data = episodes(model, 4)
    inputs = [data[name] for name in ("latents", "actions", "time", "proprio")]
    with torch.no_grad():
        all_, _ = model(*inputs, executed=data["executed"])
        between, _ = model(*inputs, executed=data["executed"][:, :3])
        assert torch.equal(all_, between)
        # An episode of one frame has no history.
        short, _ = model(*(x[:, :1] for x in inputs))
    torch.testing.assert_close(short, all_[:, :1], atol=1e-5, rtol=1e-5)


def test_a_robot_has_no_poses_to_retrieve_by():
    for row in ("context-5", "joint-5"):
        with pytest.raises(LociError, match="camera poses"):
            tiny_policy(Compose(members=(ROWS[row], ActionHistory())))


def test_its_configuration_round_trips_and_leaves_those_of_others_alone():
    memory = MEMORIES["hybrid-acts"]
    assert Memory.from_dict(memory.to_dict()) == memory
    assert memory.hash() != Hybrid(anchors=2, window=2, gists_per_frame=3).hash()
    # What was saved before memories were composed is still read.
    old = {"type": "action-history", "memory": memory.members[0].to_dict()}
    assert Memory.from_dict(old) == memory
    assert ROWS["hybrid"].hash() == "ffc58d4282b5"
