"""Draw the mask of every row of the registry: python docs/draw_masks.py

Seven frames of two tokens, chunks of two frames, one gist a frame where the row has gists, and two
sets of them to a sum, so that a picture stays small. Retrieving rows are drawn with the frames they
retrieve on a quarter turn; joint rows with what stands beside each chunk, made of four frames (or
as many as become one) and the last. Action history, which is no row of its own, is drawn with the
published mask: four frames, with the noisy actions after each.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from loci.geometry import Camera
from loci.memory import ROWS, ActionHistory, Compose, Hybrid, Memory
from loci.memory.retrieval import uniform
from loci.rules import drawing
from loci.rules.rule import Coords

FRAMES, TOKENS, CHUNK = 7, 2, 2
STARTS = range(1, FRAMES - CHUNK + 1, CHUNK)
SMALL = {"gists_per_frame": 1, "branching": 2, "top": 2}


def small(memory: Memory) -> Memory:
    """The row with numbers that fit a picture."""
    if isinstance(memory, Compose):
        return replace(memory, members=tuple(small(member) for member in memory.members))
    changes = {name: number for name, number in SMALL.items() if hasattr(memory, name)}
    if memory.joint:
        changes["frames"] = max(4, getattr(memory, "ratio", 1))
    return replace(memory, **changes)


def laid_out(memory: Memory) -> Coords:
    """The episode of the picture."""
    if memory.joint:
        # A frame that is made smaller needs tokens to lose.
        parts = memory.shrink**2
        tokens = max(TOKENS, parts)
        return drawing.episode_coords(
            FRAMES, tokens, 0, CHUNK, beside=(memory.mixed, tokens // parts)
        )
    selected = None
    if memory.retrieves:
        yaw = torch.arange(FRAMES).double() * torch.pi / 12
        poses = torch.eye(4, dtype=torch.float64).repeat(1, FRAMES, 1, 1)
        poses[0, :, 0, 0] = poses[0, :, 2, 2] = yaw.cos()
        poses[0, :, 0, 2], poses[0, :, 2, 0] = yaw.sin(), -yaw.sin()
        selected = torch.zeros(1, len(STARTS), FRAMES, dtype=torch.bool)
        for group, start in enumerate(STARTS):
            past = poses[:, :start]
            picks = memory.select(past, poses[:, start : start + CHUNK], Camera())
            if picks is None:  # that depends on what was seen: any frames stand for those
                picks = uniform(past, past, Camera(), memory.retrieves, 1.0)
            selected[0, group, picks[0]] = True
    return drawing.episode_coords(FRAMES, TOKENS, min(memory.gists, 1), CHUNK, selected=selected)


def pictures() -> Iterator[tuple[str, str]]:
    """Name -> SVG, of every row and of action history."""
    for name, row in ROWS.items():
        memory = small(row)
        yield name, drawing.svg(memory.rule(), laid_out(memory), str(memory.to_dict()))
    members = Hybrid(anchors=1, window=1, gists_per_frame=1), ActionHistory()
    memory = Compose(members=members)
    coords = drawing.episode_coords(4, TOKENS, 1, actions=1, executed=1)
    yield "action-history", drawing.svg(memory.rule(), coords, str(memory.to_dict()))


def main() -> None:
    folder = Path(__file__).parent / "masks"
    folder.mkdir(exist_ok=True)
    for name, picture in pictures():
        (folder / f"{name}.svg").write_text(picture)
        print(folder / f"{name}.svg")


if __name__ == "__main__":
    main()
