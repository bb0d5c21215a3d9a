"""A map as its tree has it, of whatever form: for who did not make it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from loci.errors import LociError
from loci.geometry.scene_map import SceneMap
from loci.geometry.tsdf import TSDF
from loci.geometry.voxels import VoxelMap


def map_of(tree: Mapping[str, Tensor]) -> SceneMap:
    """The map of which `SceneMap.tree` made this tree, to be looked at: how it carves and forgets,
    no tree says. LociError for a damaged one and for what is no map."""
    if not {"size", "payload"} <= tree.keys() or not {"ring", "distance"} & tree.keys():
        raise LociError("this is no map; give the tree of one")
    size, channels = float(tree["size"]), tree["payload"].shape[1]
    if "distance" in tree:
        found: SceneMap = TSDF(size, channels)
    else:
        found = VoxelMap(size, channels, ring=tree["ring"].shape[1])
    found.check(tree)
    found.restore(tree)
    return found
