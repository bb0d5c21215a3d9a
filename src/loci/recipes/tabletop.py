"""The recipe of the tabletop's policies: one function for all tasks and rows."""

from __future__ import annotations

from dataclasses import replace

from loci.data.sources import TabletopData
from loci.flow import Flow
from loci.geometry import Camera
from loci.memory import TTT, FullHistory, GatedDelta, Hybrid, Memory, SlidingWindow
from loci.models.action import ActionConfig
from loci.models.codecs import PixelCodecConfig
from loci.models.wan import WanConfig
from loci.models.world import WorldConfig
from loci.models.world_action import WorldActionConfig
from loci.training.augmentation import PolicyAugmentation
from loci.training.objectives import PolicyObjective
from loci.training.policy import PolicyRun
from loci.training.train_config import TrainConfig

# The rows of the study of policies. A window of two frames reaches four frames back through four
# layers: less than the six for which Put Back and Cover make a fact be held.
POLICY_ROWS: dict[str, Memory] = {
    "window": SlidingWindow(window=2),
    "full": FullHistory(),
    "hybrid": Hybrid(anchors=1, window=2, gists_per_frame=4),
    "no-anchors": Hybrid(anchors=0, window=2, gists_per_frame=4),
    "no-gists": Hybrid(anchors=1, window=2, gists_per_frame=0),
    "rnn": GatedDelta(window=2),
    "ttt": TTT(window=2),
}
# The mosaic of three cameras: a quarter of MemoryWAM's 384 x 320 pixels a side.
MOSAIC = Camera(height=96, width=80)


def tabletop(task: str, memory: Memory) -> PolicyRun:
    """A small policy (1.4 million parameters, 20 tokens a frame) for a task, with any memory."""
    run = PolicyRun(
        model=WorldActionConfig(
            world=WorldConfig(
                memory=memory,
                dit=WanConfig(
                    in_channels=192, out_channels=0, dim=128, ffn_dim=256, num_heads=4,
                    num_layers=4, patch=(1, 3, 2), freq_dim=64, text_dim=0,
                ),
                codec=PixelCodecConfig(),
                flow=Flow(shift=3.0, prediction="x", weighting="uniform"),
                camera=MOSAIC,
                chunk=1,
            ),
            expert=ActionConfig(dim=96, ffn_dim=192, text_dim=32),
            # Only near pure noise must the memory say which lid is meant: below, the noisy actions
            # show it. MemoryWAM's shift of 1 leaves 4 % of the timesteps above 0.85, 5 leaves 45 %.
            flow=Flow(shift=5.0, weighting="uniform"),
            steps=10,
        ),
        data=TabletopData(task=task, episodes=300),
        objective=PolicyObjective(video=0.0),
        augmentation=PolicyAugmentation(
            clean_noise=0.1, pause_chance=0.25, pause_frames=32,
            lead_frames=0 if memory.executed else 24,
        ),
        batch=8,
        draws=2,
        train=TrainConfig(
            steps=1000, lr=3e-3, muon=0.02, warmup=50, final=0.02, betas=(0.9, 0.95), ema=0.995,
        ),
    )
    return _counting(run) if task == "press-button" else run


def _counting(run: PolicyRun) -> PolicyRun:
    """The same for 45 facts instead of 4 or 6, and a memory that has waited most of the time."""
    world, flow = run.model.world, replace(run.model.flow, prediction="x")
    if isinstance(world.memory, TTT) and world.memory.clip is None:
        # Through a hundred frames and more, steps of any length blow its gradients up.
        world = replace(world, memory=replace(world.memory, clip=0.1))
    return replace(
        run,
        # Ten counts an episode are to be right, and none is sure: what is likelier is done.
        model=replace(run.model, world=world, flow=flow, temperature=0.0),
        data=TabletopData(task="press-button", episodes=600, drift=0.01),
        augmentation=replace(run.augmentation, pause_share=0.5, linger_frames=32),
        draws=1,
        buckets=8,
        train=replace(run.train, steps=1500, lr=2e-3, muon=0.014),
    )
