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
from loci.models.camera import relative_to
from loci.models.wan import Attend, Text
from loci.models.world import WorldModel
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
    attention: str = "windowed",
    text: Text | None = None,
) -> Tensor:
    """Predict every chunk of an episode at once, each from the clean frames before it.

    clean (B, T, C, h, w); noisy (B, G, n, C, h, w), chunk g covering the frames from starts[g];
    time (B, G) its noise level; poses (B, T, 4, 4) camera-to-world; clean_time (B, T) the noise
    level of the clean frames where they were noised (default 0). attention: "windowed", "dense"
    or "flex". Returns the network's output, the shape of `noisy`.
    """
    groups, span = noisy.shape[1:3]
    poses = relative_to(poses[:, 0], poses)
    frames = torch.arange(clean.shape[1], device=clean.device)
    begins = torch.tensor(starts, device=clean.device)
    covered = (begins[:, None] + torch.arange(span, device=clean.device)).flatten()
    selected = retrieve(model, poses, starts, span)

    written = model.clean_coords(frames)
    drawn = model.noisy_coords(covered, begins.repeat_interleave(span) - 1,
                               torch.arange(groups, device=clean.device).repeat_interleave(span))
    coords = [part.with_selected(selected) for part in (written, drawn)]
    first = model.clean_segment(clean, poses, written, clean_time, silent=True)
    second = model.noisy_segment(
        noisy.flatten(1, 2), poses[:, covered], drawn, time.repeat_interleave(span, dim=1), span
    )
    attend = _executor(model, coords, attention, len(frames), groups, span, len(clean))
    tokens = model.dit.run([first, second], attend, text)[1]
    return model.head(tokens, second.time).unflatten(1, (groups, span))


def retrieve(model: WorldModel, poses: Tensor, starts: Sequence[int], span: int) -> Tensor | None:
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
    return table


def _executor(
    model: WorldModel, coords: list[Coords], form: str, frames: int, groups: int, span: int,
    streams: int,
) -> Attend:
    rule = model.config.memory.rule()
    if form == "dense":
        return Dense(rule, coords)
    if form == "flex":
        return Flex(rule, coords)
    if form != "windowed":
        raise LociError(f"attention is '{form}'; use windowed, dense or flex")
    tokens, gists = model.tokens, model.config.memory.gists
    each, chunk = tokens + gists, span * tokens
    clean = Run(0, frames, each, 0, tokens, coords[0][::each])
    noise = Run(1, groups, chunk, 0, chunk, coords[1][::chunk])
    keys = [noise, clean]
    if gists:
        keys.append(Run(0, frames, each, tokens, gists, coords[0][tokens::each]))
    return Windowed(rule, [clean, noise], keys, streams)
