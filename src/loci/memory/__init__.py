"""The registry of memory rows: a name, and the configuration behind it.

A new mechanism is one file beside this one and one line here; or a file of yours, anywhere, that
ends in such a line and is named in LOCI_ROWS (`registry.py`, `examples/add_a_memory.py`).
"""

from __future__ import annotations

from loci.errors import LociError, did_you_mean
from loci.memory.action_history import ActionHistory
from loci.memory.base import Memory
from loci.memory.compose import Compose
from loci.memory.compression import Compressed
from loci.memory.context import Context
from loci.memory.delta import GatedDelta
from loci.memory.episodic import Episodic
from loci.memory.full import FullHistory
from loci.memory.hybrid import Hybrid
from loci.memory.joint import Joint
from loci.memory.map import Map
from loci.memory.mixture import Mixture
from loci.memory.none import NoMemory
from loci.memory.packed import Packed
from loci.memory.pooled import Pooled
from loci.memory.registry import Rows
from loci.memory.shortconv import ShortConv
from loci.memory.spatial import SpatialGrid
from loci.memory.ssm import BlockSSM
from loci.memory.tower import Tower
from loci.memory.ttt import TTT
from loci.memory.window import SlidingWindow


def _scan(joint: Joint, residual: str = "gate") -> Memory:
    """A state that runs over joint frames and chunk alone, in every pass anew, as released."""
    return Compose(members=(
        joint, BlockSSM(every=2, context=0, hint=0, carried=False, residual=residual)
    ))


ROWS = Rows({
    "none": NoMemory(),
    "context-1": Context(frames=1),
    "context-5": Context(frames=5),
    "context-20": Context(frames=20),
    "context-20-drop": Context(frames=20, drop=0.1),
    "joint-5": Joint(frames=5),
    "joint-20": Joint(frames=20),
    "length-2": Compressed(frames=20, ratio=2),
    "length-4": Compressed(frames=20, ratio=4),
    "length-8": Compressed(frames=24, ratio=8),
    "multiscale-4": Compressed(frames=20, ratio=4, scheme="multiscale"),
    "weight": Compressed(frames=20, ratio=1, gain=1.0, decay=0.9),
    "length-weight-2": Compressed(frames=20, ratio=2, gain=1.1, decay=0.95),
    "length-weight-4": Compressed(frames=20, ratio=4, gain=1.1, decay=0.95),
    "learned-4": Compressed(frames=20, ratio=4, scheme="learned"),
    "mixture": Mixture(frames=20, top=5),
    "hybrid": Hybrid(anchors=1, window=1, gists_per_frame=3),
    "full": FullHistory(),
    "window": SlidingWindow(window=4),
    "tower": Tower(anchors=1, window=1, gists_per_frame=4, branching=8),
    "spatial": SpatialGrid(grid=4, readout="concat"),
    "spatial-concat": SpatialGrid(grid=8, tokens=64, readout="concat"),
    "spatial-cross-64": SpatialGrid(grid=8, tokens=64, readout="cross"),
    "spatial-cross-32": SpatialGrid(grid=4, tokens=32, readout="cross"),
    "spatial-none": SpatialGrid(grid=8, readout="none"),
    "ssm": BlockSSM(every=2, context=1, hint=1, residual="gate"),
    "ssm-scale": BlockSSM(every=2, context=1, hint=1, residual="scale"),
    "ssm-ctx3": BlockSSM(every=2, context=3, hint=1, residual="gate"),
    "ssm-every4": BlockSSM(every=4, context=1, hint=1, residual="gate"),
    "ssm-hint3": BlockSSM(every=2, context=1, hint=3, residual="gate"),
    "ssm-joint-5": Compose(members=(Joint(frames=5), BlockSSM(every=4, context=0, hint=0))),
    "ssm-legacy": ShortConv(every=2, context=1, hint=1, kernel=3),
    "delta": GatedDelta(),
    "ttt": TTT(),
    "ttt-muon": TTT(momentum=0.9, muon=True),
    # Those below ask for the depth of what is seen.
    "map": Map(read="branch"),
    "map-channels": Map(read="channels"),
    "map-tokens": Map(read="tokens"),
    "map-none": Map(read="none"),
    "map-tsdf": Map(read="channels", form="tsdf"),
    "episodic": Episodic(pick="revealed", read="cross"),
    "episodic-cover": Episodic(pick="cover", read="cross"),
    "episodic-tokens": Episodic(pick="revealed", read="tokens"),
    "spmem": Compose(members=(
        Map(read="branch", window=5), Episodic(pick="revealed", read="cross"),
    )),
    "spmem-tokens": Compose(members=(
        Map(read="channels", window=5), Episodic(pick="cover", read="tokens"),
    )),
    "spmem-joint": Compose(members=(
        Map(read="channels", window=0), Joint(frames=5, retrieval="cascade"),
    )),
    "spmem-joint-overlap": Compose(members=(Map(read="channels", window=0), Joint(frames=5))),
    "spmem-joint-drop": Compose(members=(
        Map(read="channels", window=0, drop=0.3), Joint(frames=5, retrieval="cascade"),
    )),
    "spmem-no-map": Compose(members=(
        SlidingWindow(window=5), Episodic(pick="revealed", read="cross"),
    )),
    "spmem-no-window": Compose(members=(
        Map(read="branch"), Episodic(pick="revealed", read="cross"),
    )),
    "spmem-no-key-frames": Map(read="branch", window=5),
    "working": SlidingWindow(window=5),
    "hybrid-map": Compose(members=(Hybrid(), Map(read="channels"))),
    "context-5-cascade": Context(frames=5, retrieval="cascade"),
    "context-5-surfels": Context(frames=5, retrieval="surfels"),
    # Echo-Memory's families with the frames and the times of its release, and with each other's
    # frames.
    "released-5": Joint(frames=5, timestep="chunk"),
    "released-length": Compressed(frames=64, ratio=4, timestep="chunk"),
    "released-grid": Pooled(frames=1, readout="cross", timestep="chunk"),
    "released-scan": _scan(
        Joint(frames=5, placement="prefix", retrieval="recent", timestep="chunk"), "scale"
    ),
    "joint-1": Joint(frames=1),
    "length-4-of-4": Compressed(frames=4, ratio=4),
    "grid-of-1": Pooled(frames=1, readout="cross"),
    "grid-of-5": Pooled(frames=5, readout="cross"),
    "grid-of-20": Pooled(frames=20, readout="cross"),
    "scan-of-1": _scan(Joint(frames=1, placement="prefix")),
    "scan-of-5": _scan(Joint(frames=5, placement="prefix")),
    "scan-of-20": _scan(Joint(frames=20, placement="prefix")),
})


def row(name: str) -> Memory:
    """The configuration of a named row; LociError names the nearest one."""
    if name not in ROWS:
        raise LociError(f"unknown memory row '{name}'{did_you_mean(name, ROWS)}")
    return ROWS[name]


__all__ = [
    "ROWS", "TTT", "ActionHistory", "BlockSSM", "Compose", "Compressed", "Context", "Episodic",
    "FullHistory", "GatedDelta", "Hybrid", "Joint", "Map", "Memory", "Mixture", "NoMemory",
    "Packed", "Pooled", "ShortConv", "SlidingWindow", "SpatialGrid", "Tower", "row",
]
