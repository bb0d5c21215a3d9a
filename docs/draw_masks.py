"""Draw the mask of every row of the registry: python docs/draw_masks.py

Seven frames of two tokens, chunks of two frames, one gist a frame where the row has gists, and two
sets of them to a sum, so that a picture stays small. Retrieving rows are drawn with the frames they
retrieve on a quarter turn.
"""

from dataclasses import replace
from pathlib import Path

import torch

from loci import drawing
from loci.memory import ROWS
from loci.types import Camera

FRAMES, TOKENS, CHUNK = 7, 2, 2
SMALL = {"gists_per_frame": 1, "branching": 2}


def main() -> None:
    folder = Path(__file__).parent / "masks"
    folder.mkdir(exist_ok=True)
    for name, memory in ROWS.items():
        if memory.joint:
            continue  # nothing is kept of frames that stand beside a chunk: no mask to show
        memory = replace(memory, **{k: n for k, n in SMALL.items() if hasattr(memory, k)})
        starts = range(1, FRAMES - CHUNK + 1, CHUNK)
        selected = None
        if memory.retrieves:
            yaw = torch.arange(FRAMES).double() * torch.pi / 12
            poses = torch.eye(4, dtype=torch.float64).repeat(1, FRAMES, 1, 1)
            poses[0, :, 0, 0] = poses[0, :, 2, 2] = yaw.cos()
            poses[0, :, 0, 2], poses[0, :, 2, 0] = yaw.sin(), -yaw.sin()
            selected = torch.zeros(1, len(starts), FRAMES, dtype=torch.bool)
            for group, start in enumerate(starts):
                picks = memory.select(poses[:, :start], poses[:, start : start + CHUNK], Camera())
                selected[0, group, picks[0]] = True
        coords = drawing.episode_coords(
            FRAMES, TOKENS, min(memory.gists, 1), CHUNK, selected=selected
        )
        (folder / f"{name}.svg").write_text(drawing.svg(memory, coords))
        print(folder / f"{name}.svg")


if __name__ == "__main__":
    main()
