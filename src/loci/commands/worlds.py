"""`loci worlds`: what the worlds look like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from loci.commands.options import maybe, named
from loci.commands.spelling import CommandGroup
from loci.errors import LociError

app = CommandGroup()


@app.command
def render(
    world: Positional[Annotated[Literal["rooms", "tabletop"], named("WORLD")]],
    /,
    *,
    out: Annotated[Path, named("FILE")],
    seed: Annotated[int, named("S")] = 0,
    path: Annotated[str | None, maybe("NAME", "loop180")] = None,
    split: Annotated[
        Literal["train", "heldout", "open"] | None, maybe("{train,heldout,open}", "heldout")
    ] = None,
    task: Annotated[str | None, maybe("NAME", "put-back-block")] = None,
    hold: Annotated[int | None, maybe("N", "1")] = None,
    view: Annotated[Literal["mosaic", "head"] | None, maybe("{mosaic,head}", "mosaic")] = None,
) -> None:
    """Render a room along a camera path, or an expert at a task: a video, or a sheet of frames.

    Args:
        world: The world: rooms or tabletop.
        out: The file to write; its ending says what: .mp4 a video, .png a sheet.
        seed: Which room or episode.
        path: Rooms: name of a camera path; those through doors are in flats.
        split: Rooms: which rooms or flats.
        task: Tabletop: name of a task.
        hold: Tabletop: how many times as long the cue must be remembered.
        view: Tabletop: all cameras or one.
    """
    others = {
        "rooms": {"--task": task, "--hold": hold, "--view": view},
        "tabletop": {"--path": path, "--split": split},
    }
    for option, value in others[world].items():
        if value is not None:
            raise LociError(f"{option} is not for {world}; leave it out")
    if world == "rooms":
        from loci.commands.render_room import render_room

        render_room(split or "heldout", seed, path or "loop180", out)
    else:
        from loci.commands.render_task import render_task

        render_task(
            task or "put-back-block", seed, out, 1 if hold is None else hold, view or "mosaic"
        )
