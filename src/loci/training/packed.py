"""The training executor: a whole episode in one pass, under the mechanism's rule.

Clean frames with their gists are laid out once; every chunk that is supervised stands beside them
as noise and sees what the rule lets it see, never its own clean copy. `session.py` executes the
same model under the same rule frame by frame; that both agree is a conformance test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loci.attention.cross import Text
from loci.attention.dense import AttentionFn, Dense
from loci.attention.flex import Flex
from loci.attention.gather import Run, Windowed
from loci.attention.rotary import RotaryCosSin
from loci.errors import LociError
from loci.geometry import relative_to
from loci.memory.base import Memory, pick
from loci.memory.frames import Frames
from loci.memory.recurrent import Carry, Read, State, StateHook, own, stack
from loci.models.mot import Lane, run
from loci.models.world import WorldModel
from loci.models.world_action import NO_TEXT, Texts, WorldActionModel
from loci.rules.rule import Coords, Kind


def packed_pass(
    model: WorldModel,
    clean: Tensor,
    noisy: Tensor,
    time: Tensor,
    poses: Tensor,
    starts: Sequence[int],
    *,
    clean_time: Tensor | None = None,
    dropped: Tensor | None = None,
    attention: str = "windowed",
    text: Text | None = None,
) -> Tensor:
    """Predict every chunk of an episode at once, each from the clean frames before it.

    clean (B, T, C, h, w); noisy (B, G, n, C, h, w), chunk g covering the frames from starts[g];
    time (B, G) its noise level; poses (B, T, 4, 4) camera-to-world; clean_time (B, T) the noise
    level of the clean frames where they were noised (default 0); dropped (B,) booleans, the
    episodes that retrieve nothing. attention: "windowed", "dense" or "flex". Returns the
    network's output, the shape of `noisy`.
    """
    span = noisy.shape[2]
    if len(starts) != noisy.shape[1] or min(starts) < 1 or max(starts) + span > clean.shape[1]:
        raise LociError(
            f"chunks of {span} frames from {list(starts)} for {noisy.shape[1]} chunks in "
            f"{clean.shape[1]} frames; each needs a frame before it and its own"
        )
    poses = relative_to(poses[:, 0], poses)
    frames = torch.arange(clean.shape[1], device=clean.device)
    begins = torch.tensor(starts, device=clean.device)
    covered = begins[:, None] + torch.arange(span, device=clean.device)
    if clean_time is None:
        clean_time = torch.zeros(clean.shape[:2], device=clean.device)
    selected, picked = None, None
    if model.config.memory.joint:
        picked = _beside(model, Frames(clean, poses, clean_time), starts, span, dropped)
    else:
        selected = retrieve(model, poses, starts, span, dropped)

    drawn = model.chunk_coords(begins, span).with_selected(selected)
    lanes = [Lane(model.dit, model.chunk_segment(noisy, poses[:, covered], drawn, time, picked),
                  text)]
    coords = [drawn]
    if model.writes:
        written = model.clean_coords(frames).with_selected(selected)
        lanes.insert(0, Lane(model.dit, model.clean_segment(clean, poses, written, clean_time),
                             text))
        coords.insert(0, written)
    memory = model.config.memory
    attend = _executor(model, coords, attention, clean.shape[:2], [len(starts)], memory)
    reader = _Reader([start - 1 for start in starts], own)
    tokens = run(lanes, attend, _recall(model, [reader]))[-1]
    return model.head(tokens, time, span)


def packed_actions(
    model: WorldActionModel,
    clean: Tensor,
    actions: Tensor,
    action_time: Tensor,
    proprio: Tensor,
    *,
    noisy: Tensor | None = None,
    time: Tensor | None = None,
    ahead: Sequence[int] = (),
    clean_time: Tensor | None = None,
    after: Sequence[int] | None = None,
    executed: Tensor | None = None,
    pauses: Tensor | None = None,
    memory: Memory | None = None,
    attention: str = "windowed",
    texts: Texts = NO_TEXT,
    recompute: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Predict every chunk of actions of an episode at once, and frames that follow.

    clean (B, T, C, h, w); actions (B, G, n, A), normalised and noised, chunks carried out after
    the frames `after` (default: chunk t after frame t; a frame may have several, which do not see
    each other); action_time (B, G) their noise levels; proprio (B, T, P), normalised, the robot's
    state at each frame. noisy (B, V, C, h, w) at levels time (B, V): the frames `ahead` (V of
    them, 1 or more each), of which each knows what came before it and never its own clean copy.
    executed (B, T - 1 or T, n, A), normalised: the chunks that were carried out after the frames;
    wanted where the memory keeps them, unused elsewhere; nobody sees the one after the last.
    clean_time (B, T): noise levels of the clean frames where they were noised. pauses (B, T): by
    how many frames each frame and all after it stand later in time than they were seen; nothing
    but the rotary positions knows. memory: in place of the model's own, with as many gists.
    recompute: as for `mot.run`. Returns the network's outputs, of the shapes of `actions` and of
    `noisy`. LociError for executed actions that are missing or do not fit.
    """
    world, expert, memory = model.world, model.expert, memory or model.config.world.memory
    place = torch.arange(clean.shape[1], device=clean.device)
    still = torch.eye(4, dtype=torch.float64, device=clean.device)
    if clean_time is None:
        clean_time = torch.zeros(clean.shape[:2], device=clean.device)
    shift = None if pauses is None else pauses.long().cumsum(1)

    def placed(coords: Coords) -> Coords:
        """Where tokens stand in time for the rotary positions."""
        return coords if shift is None else coords.later(shift[:, coords.frame])

    lanes, coords, readers = [], [], []
    if world.writes:
        coords.append(world.clean_coords(place))
        poses = still.expand(*clean.shape[:2], 4, 4)
        segment = world.clean_segment(clean, poses, placed(coords[0]), clean_time)
        lanes.append(Lane(world.dit, segment, texts.video))
    after = list(range(actions.shape[1])) if after is None else list(after)
    between = clean.shape[1] - 1
    if proprio.shape[:2] != clean.shape[:2]:
        raise LociError(
            f"states {tuple(proprio.shape)} for frames {tuple(clean.shape[:2])}; give one a frame"
        )
    context = expert.context(proprio, texts.actions)  # once a frame, however many chunks read it
    if memory.executed and between:
        done = _checked(executed, actions, between)
        coords.append(expert.coords(place[:-1], len(ahead) + len(after), Kind.EXECUTED))
        zero = torch.zeros(done.shape[:2], device=clean.device)
        segment = expert.segment(done, zero, expert.angles(placed(coords[-1])), silent=True)
        told = range(between)
        lanes.append(Lane(expert, segment, context.rows(_rows(clean.shape[:2], told))))
        readers.append(_Reader(list(told), model.read_carry))
    if noisy is not None and time is not None:
        coords.append(world.chunk_coords(torch.tensor(ahead, device=clean.device), 1))
        poses = still.expand(len(noisy), len(ahead), 1, 4, 4)
        segment = world.chunk_segment(noisy[:, :, None], poses, placed(coords[-1]), time, None)
        lanes.append(Lane(world.dit, segment, texts.video))
        readers.append(_Reader([frame - 1 for frame in ahead], own))
    coords.append(expert.coords(torch.tensor(after, device=clean.device), len(ahead)))
    segment = expert.segment(actions, action_time, expert.angles(placed(coords[-1])))
    lanes.append(Lane(expert, segment, context.rows(_rows(clean.shape[:2], after))))
    readers.append(_Reader(after, model.read_carry))

    groups = [len(reader.before) for reader in readers]
    attend = _executor(world, coords, attention, clean.shape[:2], groups, memory)
    tokens = run(lanes, attend, _recall(world, readers), recompute)
    video = None
    if noisy is not None and time is not None:
        video = world.head(tokens[-2], time, 1)[:, :, 0]
    return expert.head(tokens[-1]), video


def _checked(executed: Tensor | None, actions: Tensor, between: int) -> Tensor:
    """The chunks that were carried out between frames, (B, T - 1, n, A)."""
    if executed is None:
        raise LociError("this memory keeps action history: give the `executed` chunks too")
    rows, _, *chunk = actions.shape
    if executed.shape not in [(rows, count, *chunk) for count in (between, between + 1)]:
        raise LociError(
            f"executed actions of shape {tuple(executed.shape)}; give all chunks between the "
            f"frames, {(rows, between, *chunk)}"
        )
    return executed[:, :between]


def _rows(shape: Sequence[int], frames: Sequence[int]) -> list[int]:
    """Where these frames of every episode are among the (B, T) of `shape`, frames innermost."""
    episodes, length = shape
    return [episode * length + frame for episode in range(episodes) for frame in frames]


def retrieve(
    model: WorldModel, poses: Tensor, starts: Sequence[int], span: int,
    dropped: Tensor | None = None,
) -> Tensor | None:
    """The frames that each chunk retrieves from its past, (B, G, T) booleans, or None."""
    memory = model.config.memory
    if not memory.retrieves:
        return None
    table = torch.zeros(len(poses), len(starts), poses.shape[1], dtype=torch.bool,
                        device=poses.device)
    for group, start in enumerate(starts):
        picks = memory.select(poses[:, :start], poses[:, start : start + span], model.config.camera)
        if picks is not None:
            table[:, group].scatter_(1, picks, True)
    return table if dropped is None else table & ~dropped[:, None, None]


def _beside(
    model: WorldModel, past: Frames, starts: Sequence[int], span: int, dropped: Tensor | None
) -> Frames:
    """The frames that stand beside each chunk, rows (B * G)."""
    poses = past.poses
    picks = torch.stack([
        pick(model.config.memory, poses[:, :start], poses[:, start : start + span],
             model.config.camera)
        for start in starts
    ], dim=1)  # (B, G, K)
    if dropped is not None:
        picks[..., :-1] = picks[..., :-1].masked_fill(dropped[:, None, None], 0)
    rows = torch.arange(len(poses), device=poses.device)[:, None, None]
    return Frames(*(
        x[rows, picks].flatten(0, 1) for x in (past.latents, past.poses, past.time)
    ))


@dataclass(frozen=True)
class _Reader:
    """A lane of chunks that read carried states: the last frame that each knows of, and how."""

    before: list[int]
    read: Read


def _recall(model: WorldModel, readers: Sequence[_Reader]) -> StateHook | None:
    """Carried states: clean frames advance them, each chunk reads the one before its start."""
    if not model.carries:
        return None
    moments = sorted({frame for reader in readers for frame in reader.before})
    states: dict[int, list[State]] = {}

    def recall(layer: int, xs: list[Tensor], turns: list[RotaryCosSin]) -> list[Tensor]:
        carry = model.carries.get(layer)
        if carry is None:
            return xs
        clean, *chunks = xs
        if carry.source is None:
            seen, found = carry.write(clean, carry.init(len(clean)), moments, turns[0])
            clean, at = clean + seen, dict(zip(moments, found, strict=True))
            states[layer] = [stack([at[frame] for frame in r.before]) for r in readers]
        source = layer if carry.source is None else carry.source
        return [clean] + [
            x + _read_apart(layer, carry, reader, x, state, turn)
            for reader, x, state, turn in zip(
                readers, chunks, states[source], turns[1:], strict=True
            )
        ]

    return recall


def _read_apart(
    layer: int, carry: Carry, reader: _Reader, x: Tensor, state: State, turn: RotaryCosSin
) -> Tensor:
    """What the chunks in x (B, G * n, P, D) read, each of its own state."""
    rows = len(x) * len(reader.before)
    cos, sin = (
        part.expand(len(x), -1, -1).reshape(rows, -1, part.shape[-1]) for part in turn
    )
    found = reader.read(layer, carry, x.reshape(rows, -1, *x.shape[2:]), state, (cos, sin))
    return found.view_as(x)


def _executor(
    model: WorldModel, coords: list[Coords], form: str, clean: Sequence[int],
    groups: Sequence[int], memory: Memory,
) -> AttentionFn:
    """Attention over lanes at `coords`: the clean frames (B, T) `clean`, where the model writes
    them, then lanes of so many `groups` each."""
    rule, (streams, frames) = memory.rule(), clean
    if form == "dense":
        return Dense(rule, coords)
    if form == "flex":
        return Flex(rule, coords)
    if form != "windowed":
        raise LociError(f"attention is '{form}'; use windowed, dense or flex")
    queries, keys, first = [], [], len(coords) - len(groups)
    if first:
        tokens, gists = model.tokens, memory.gists
        each = tokens + gists
        queries.append(Run(0, frames, each, tokens, coords[0][::each]))
        keys.append(queries[0])
        if gists:
            keys.append(Run(0, frames, each, gists, coords[0][tokens::each]))
    for segment, count in enumerate(groups, first):
        size = len(coords[segment]) // count
        queries.append(Run(segment, count, size, size, coords[segment][::size]))
        keys.append(queries[-1])
    return Windowed(rule, queries, keys, streams)
