"""The tasks of the tabletop: a name, and the configuration behind it."""

from __future__ import annotations

from loci.errors import LociError, did_you_mean
from loci.worlds.tabletop.tasks.base import Task
from loci.worlds.tabletop.tasks.cover_blocks import CoverBlocks
from loci.worlds.tabletop.tasks.press_button import PressButton
from loci.worlds.tabletop.tasks.put_back_block import PutBackBlock

TASKS: dict[str, type[Task]] = {
    "put-back-block": PutBackBlock,
    "cover-blocks": CoverBlocks,
    "press-button": PressButton,
}


def make_task(name: str, hold: int = 1) -> Task:
    """The task of that name. Raises LociError for an unknown one."""
    if name not in TASKS:
        raise LociError(f"unknown task '{name}'{did_you_mean(name, TASKS)}")
    return TASKS[name](hold=hold)
