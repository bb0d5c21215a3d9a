"""What a model makes of a map that is finer than the one that it was trained with.

    python benchmarks/map_resolution.py [--checkpoint spmem-joint-overlap] [--voxels 0.1,0.05,0.02]
        [--cases 64] [--json] [--out FILE]

The size of a map's voxels is a setting of the memory, and no weight depends on it. The model goes
on from the way out of held-out rooms, as in the study's branch recall with geometry exact and off
by the stated level, with voxels of each size; beside it what the same map shows raw, and the
codec's ceiling. PSNR of the pixels that were seen, means over cases with 95 % intervals.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro

from loci.data.episodes import EpisodeCache
from loci.data.truth import Truth, prepare
from loci.errors import LociError
from loci.geometry.imperfect import IMPERFECT
from loci.memory import Compose, Map, Memory
from loci.models.world import WorldModel
from loci.study.estimates import bootstrap
from loci.study.provenance import BOOTSTRAP
from loci.study.rooms.baselines import baseline
from loci.study.rooms.branches import BRANCHES, Branch
from loci.study.rooms.renders import RENDERS, render
from loci.study.rooms.rollouts import rollout
from loci.training.numerics import matmul_precision
from protocol import Output, protocol, save

ASKED = ("recall", "off-stated")
RAW = {memory.voxel: name for name, (memory, filled) in RENDERS.items()
       if not filled and memory.form == "voxels"}
SEED = 0


@dataclass
class Options(Output):
    checkpoint: str = "spmem-joint-overlap"
    voxels: str = "0.1,0.05,0.02"  # metres; those of the study's raw renders
    cases: int = 64


def main(options: Options) -> None:
    sizes = [float(size) for size in options.voxels.split(",")]
    if not set(sizes) <= set(RAW):
        raise LociError(f"voxels of {options.voxels} m; choose among {', '.join(map(str, RAW))}")
    with matmul_precision("exact", torch.device("cpu")), torch.no_grad():
        model = WorldModel.load(options.checkpoint)
        memory = model.config.memory
        if resized(memory, 1.0) == resized(memory, 2.0):
            raise LociError(f"{options.checkpoint} has no map; give a checkpoint of one that has")
        models = {size: with_voxels(model, size) for size in sizes}
        results: dict[str, dict[str, dict]] = {}
        for branch in map(BRANCHES.__getitem__, ASKED):
            cases = truths(branch, model, options.cases)
            codec = baseline("codec", cases, model.config.camera, model.codec)
            results[branch.name] = {"codec": seen(branch, cases, codec)}
            for size, finer in models.items():
                results[branch.name] |= {
                    f"model, {size:g} m": seen(branch, cases, rollout(finer, cases, SEED)),
                    f"raw, {size:g} m": seen(
                        branch, cases, [render(RAW[size], case)[0] for case in cases]
                    ),
                }
                print(f"{branch.name}: voxels of {size:g} m done", file=sys.stderr)
        made = protocol(
            options, {f"{size:g} m": finer.config for size, finer in models.items()}, seed=SEED,
            cases=options.cases, bootstrap=BOOTSTRAP,
            spread="95 % bootstrap intervals over cases",
        )
    save(options, {"protocol": made, "psnr_seen": results}, "\n".join(
        f"{branch}: {row}: {found['mean']:.1f} [{found['lo']:.1f}, {found['hi']:.1f}] dB"
        for branch, rows in results.items() for row, found in rows.items()
    ))


def with_voxels(model: WorldModel, size: float) -> WorldModel:
    """The same weights with a map of other voxels."""
    finer = WorldModel(replace(model.config, memory=resized(model.config.memory, size)))
    finer.load_state_dict(model.state_dict())
    return finer.eval()


def resized(memory: Memory, size: float) -> Memory:
    if isinstance(memory, Compose):
        return replace(memory, members=tuple(resized(part, size) for part in memory.members))
    return replace(memory, voxel=size) if isinstance(memory, Map) else memory


def truths(branch: Branch, model: WorldModel, count: int) -> list[Truth]:
    with tempfile.TemporaryDirectory() as folder:
        return [
            prepare(
                case, EpisodeCache(folder), model.config.camera, observe=branch.observe,
                frames=branch.frames(model.config.chunk), groups=branch.groups,
                geometry=IMPERFECT[branch.geometry] if branch.geometry else None,
            )
            for case in branch.cases(count, SEED)
        ]


def seen(branch: Branch, cases: Sequence[Truth], videos: Sequence[np.ndarray]) -> dict:
    scores = [branch.score(t, video).metrics for t, video in zip(cases, videos, strict=True)]
    mean = bootstrap([score["psnr_seen"] for score in scores])
    assert mean is not None
    return mean.to_dict()


if __name__ == "__main__":
    main(tyro.cli(Options))
