"""The world-action models whose costs are measured, by size and memory.

"paper": one layer of MemoryWAM (arXiv 2606.20562), that is of Wan2.2-TI2V-5B with its action
expert, 120 tokens a frame, 2 anchors, a window of 4 and 8 gists a frame. "small": what two cores
train, 20 tokens a frame, 1 anchor, a window of 2 and 4 gists.
"""

from __future__ import annotations

from dataclasses import replace

from loci.errors import LociError, did_you_mean
from loci.flow import Flow
from loci.geometry import Camera
from loci.memory import TTT, FullHistory, GatedDelta, Hybrid, Memory, SlidingWindow, Tower
from loci.models.action import ActionConfig
from loci.models.codecs import CodecConfig, ImageCodecConfig, PixelCodecConfig
from loci.models.wan import WanConfig
from loci.models.weights.released import wan_2_2_ti2v_5b
from loci.models.world import WorldConfig
from loci.models.world_action import WorldActionConfig

SIZES = ("small", "paper")
MECHANISMS = ("full", "window", "hybrid", "tower", "delta", "ttt")
# Words of an instruction, where the video transformer reads text.
WORDS = 20


def memories(anchors: int, window: int, gists: int) -> dict[str, Memory]:
    """The mechanisms that are compared, with the same window."""
    return {
        "full": FullHistory(),
        "window": SlidingWindow(window=window),
        "hybrid": Hybrid(anchors=anchors, window=window, gists_per_frame=gists),
        "tower": Tower(anchors=anchors, window=window, gists_per_frame=gists, branching=8),
        "delta": GatedDelta(window=window),
        "ttt": TTT(window=window),
    }


def policy_config(size: str, mechanism: str) -> WorldActionConfig:
    """Raises LociError, naming the nearest, for a size or a mechanism that there is not."""
    for given, there, what in ((size, SIZES, "size of a policy"),
                               (mechanism, MECHANISMS, "memory of a policy to be measured")):
        if given not in there:
            raise LociError(f"unknown {what} '{given}'{did_you_mean(given, there)}")
    if size == "paper":
        rows = memories(anchors=2, window=4, gists=8)
        dit = replace(wan_2_2_ti2v_5b(), num_layers=1)
        expert = ActionConfig(dim=1024, ffn_dim=4096)
        # Of the codec only the shape of its latents counts: 48 x 24 x 20, as the video VAE's.
        codec: CodecConfig = ImageCodecConfig(channels=48)
        camera = Camera(height=192, width=160)
    else:
        rows = memories(anchors=1, window=2, gists=4)
        codec, camera = PixelCodecConfig(), Camera(height=64, width=80)
        dit = WanConfig(
            in_channels=192, out_channels=192, dim=128, ffn_dim=256, num_heads=4, num_layers=4,
            freq_dim=64, text_dim=0,
        )
        expert = ActionConfig(dim=96, ffn_dim=192, text_dim=96)
    return WorldActionConfig(
        world=WorldConfig(
            memory=rows[mechanism], dit=dit, codec=codec, flow=Flow(), camera=camera, chunk=1,
        ),
        expert=expert,
    )
