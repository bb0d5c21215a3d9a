"""Whatever model a checkpoint holds."""

from __future__ import annotations

from pathlib import Path

from loci.errors import LociError
from loci.io.checkpoint import checkpoint_kind
from loci.models import world, world_action
from loci.models.world import WorldModel
from loci.models.world_action import WorldActionModel

MODELS: dict[str, type[WorldModel] | type[WorldActionModel]] = {
    world.KIND: WorldModel,
    world_action.KIND: WorldActionModel,
}


def load(path: str | Path) -> WorldModel | WorldActionModel:
    """The model in a checkpoint, in fp32, on the CPU, in evaluation mode.

    path: a file, or the name of a checkpoint that ships ("hybrid", "cover-blocks-hybrid"). Raises
    LociError for a file that is missing, damaged, or holds no model.
    """
    kind = checkpoint_kind(path)
    if kind not in MODELS:
        raise LociError(f"{path} holds a {kind}; give a {' or a '.join(MODELS)}")
    return MODELS[kind].load(path)
