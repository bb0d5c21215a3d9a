"""The training executor: a whole episode in one pass, under the mechanism's rule.

Clean frames with their gists are laid out once; every chunk that is supervised stands beside them
as noise and sees what the rule lets it see, never its own clean copy. `session.py` executes the
same model under the same rule frame by frame; that both agree is a conformance test.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loci.attention import Dense, Flex, Run, Windowed
from loci.errors import LociError
from loci.memory.base import pick
from loci.memory.carry import State, stack
from loci.models.camera import relative_to
from loci.models.mot import Attend, Recall
from loci.models.trunk import Text, Turn
from loci.models.world import WorldModel
from loci.types import Frames
from loci.visibility import Coords


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
    chunks = model.chunk_segment(noisy, poses[:, covered], drawn, time, picked)
    if model.writes:
        written = model.clean_coords(frames).with_selected(selected)
        segments = [model.clean_segment(clean, poses, written, clean_time), chunks]
        coords = [written, drawn]
    else:
        segments, coords = [chunks], [drawn]
    attend = _executor(model, coords, attention, len(frames), len(starts), len(clean))
    tokens = model.dit.run(segments, attend, text, _recall(model, starts))[-1]
    return model.head(tokens, time, span)


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


def _recall(model: WorldModel, starts: Sequence[int]) -> Recall | None:
    """Carried states: clean frames advance them, each chunk reads the one before its start."""
    if not model.carries:
        return None
    before, states = [start - 1 for start in starts], dict[int, State]()

    def recall(layer: int, xs: list[Tensor], turns: list[Turn]) -> list[Tensor]:
        carry = model.carries.get(layer)
        if carry is None:
            return xs
        clean, noisy = xs
        if carry.source is None:
            seen, found = carry.write(clean, carry.init(len(clean)), before, turns[0])
            clean, states[layer] = clean + seen, stack(found)
        state = states[layer if carry.source is None else carry.source]
        chunks = noisy.reshape(len(noisy) * len(starts), -1, *noisy.shape[2:])
        cos, sin = (
            part.expand(len(noisy), -1, -1).reshape(len(chunks), -1, part.shape[-1])
            for part in turns[1]
        )
        return [clean, noisy + carry.read(chunks, state, (cos, sin)).view_as(noisy)]

    return recall


def _executor(
    model: WorldModel, coords: list[Coords], form: str, frames: int, groups: int, streams: int
) -> Attend:
    rule = model.config.memory.rule()
    if form == "dense":
        return Dense(rule, coords)
    if form == "flex":
        return Flex(rule, coords)
    if form != "windowed":
        raise LociError(f"attention is '{form}'; use windowed, dense or flex")
    chunk = len(coords[-1]) // groups
    noise = Run(len(coords) - 1, groups, chunk, 0, chunk, coords[-1][::chunk])
    if len(coords) == 1:
        return Windowed(rule, [noise], [noise], streams)
    tokens, gists = model.tokens, model.config.memory.gists
    each = tokens + gists
    clean = Run(0, frames, each, 0, tokens, coords[0][::each])
    keys = [noise, clean]
    if gists:
        keys.append(Run(0, frames, each, tokens, gists, coords[0][tokens::each]))
    return Windowed(rule, [clean, noise], keys, streams)
