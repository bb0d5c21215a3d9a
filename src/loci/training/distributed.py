"""Models over several processes, by torch's own means (FSDP2)."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from loci.models.trunk import Trunk


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a world model or a world-action model over a mesh, block by block; the model itself is
    returned. Its parameters become DTensors, gathered where a block needs them."""
    for trunk in model.modules():
        if isinstance(trunk, Trunk):
            *blocks, last = trunk.blocks
            for block in blocks:
                fully_shard(block, mesh=mesh)
            # Of a last block somebody may want keys and values alone, which leave it on the way:
            # nothing tells it that its backward pass begins, so that it stays gathered.
            fully_shard(last, mesh=mesh, reshard_after_forward=False)
    return fully_shard(model, mesh=mesh)
