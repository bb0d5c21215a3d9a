"""The recipes: functions that return the whole configuration of a run, by name.

    loci train rooms-codec --out runs/codec        the small codec of the rooms
    loci train rooms-hybrid --out runs/hybrid      one memory row, and so for every other row

    loci train returns-hybrid --out runs/hybrid    the same with the return loss

    loci train cover-blocks-hybrid --out runs/cover    a policy for a task of the tabletop

The rows share one function and differ in one line, their memory. A recipe of your own is a
function like these in any file: `loci train my_recipes.py:my_recipe --out DIR`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from loci.flow import Flow
from loci.memory import ROWS, Memory
from loci.models.world import WorldConfig
from loci.training.codec import image_codec
from loci.training.loop import TrainConfig
from loci.training.returning import returning
from loci.training.run import RunConfig
from loci.training.tabletop import POLICY_ROWS, tabletop
from loci.training.world import WorldRun, shipped_codec_config, small_transformer
from loci.types import Camera
from loci.worlds.tasks import TASKS

AGAIN = "returns-"  # before a row's name: its recipe with the return loss


def rooms(memory: Memory) -> WorldRun:
    """The study's recipe: a world model of the rooms with the given memory."""
    codec, digest = shipped_codec_config()
    return WorldRun(
        world=WorldConfig(
            memory=memory,
            dit=small_transformer(codec.channels),
            codec=codec,
            flow=Flow(shift=3.0, prediction="x", weighting="uniform"),
            camera=Camera(),
            chunk=4,
            steps=10,
        ),
        codec=digest,
        clean_noise=0.1,
        train=TrainConfig(
            steps=1000, lr=3e-3, muon=0.02, warmup=50, final=0.02, betas=(0.9, 0.95), ema=0.995,
        ),
    )


def _returning(memory: Memory) -> WorldRun:
    return returning(rooms(memory))


def recipes() -> dict[str, Callable[[], RunConfig]]:
    """All recipes by name: the codec's, two for each memory row that is known by now, and one for
    each task of the tabletop and row of the study of policies."""
    rows = {f"rooms-{name}": partial(rooms, memory) for name, memory in ROWS.items()}
    again = {f"{AGAIN}{name}": partial(_returning, memory) for name, memory in ROWS.items()}
    policies = {
        f"{task}-{name}": partial(tabletop, task, memory)
        for task in TASKS for name, memory in POLICY_ROWS.items()
    }
    return {"rooms-codec": image_codec, **rows, **again, **policies}
