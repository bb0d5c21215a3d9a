"""Train a world model on recordings of places with camera poses.

    loci data make-tiny scenes         # or Context-as-Memory's folder, under that name
    loci train examples/train_on_scenes.py:scenes --out runs/scenes
    loci eval scenes runs/scenes

`videos` is the same for a folder of videos, each with a file of poses beside it.
"""

from dataclasses import replace

import loci
from loci.data.sources import ContextAsMemoryData, DataConfig, VideosData
from loci.geometry import Camera
from loci.recipes.rooms import rooms
from loci.training.world import WorldRun


def recipe(data: DataConfig, fov: float) -> WorldRun:
    """The small world model of the rooms with a memory that retrieves five frames, for pictures
    that are `fov` degrees across."""
    run = rooms(loci.ROWS["context-5"])
    world = replace(run.world, camera=Camera(height=64, width=64, fov=fov))
    return replace(run, world=world, data=data, train=run.train.shortened(300))


def scenes() -> WorldRun:
    """Episodes of 33 pictures, each with four frames of before; two scenes are held out."""
    data = ContextAsMemoryData(
        folder="scenes", length=33, hop=16, context=4, heldout=("room_0002", "room_0005"),
    )
    return recipe(data, fov=52.67)


def videos() -> WorldRun:
    """The same for videos whose poses are OpenGL's, in metres."""
    data = VideosData(folder="videos", length=33, hop=16, axes="opengl", heldout=("walk_1",))
    return recipe(data, fov=45.0)
