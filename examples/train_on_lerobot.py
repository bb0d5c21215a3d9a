"""Train a policy on your own LeRobot dataset: python examples/train_on_lerobot.py --data FOLDER

A recipe is a function that returns the whole configuration of a run. This one takes the small
policy of the tabletop, with the memory of your choice, and makes it one for your robot: its
cameras, and the widths of its state and actions. Without --data a small dataset is recorded first.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import loci
from loci.commands.record import record_tabletop
from loci.data.lerobot.dataset import Dataset
from loci.data.sources import LeRobotData
from loci.models.text import HashedWords
from loci.recipes.tabletop import tabletop
from loci.training.policy import PolicyRun

STATE, ACTION = "observation.state", "action"


def recipe(folder: Path, cameras: list[str], memory: loci.Memory, steps: int) -> PolicyRun:
    """A run on the dataset in `folder`; of three cameras the first is shown largest."""
    run = tabletop("put-back-block", memory)
    features = Dataset.open(folder).features
    widths = {"proprio": features[STATE].shape[0], "actions": features[ACTION].shape[0]}
    # Instructions are read word by word; without `text` the policy would see none of them.
    model = replace(run.model, expert=replace(run.model.expert, **widths), text=HashedWords())
    data = LeRobotData(folder=str(folder), cameras=tuple(cameras))
    return replace(run, model=model, data=data, train=run.train.shortened(steps))


def compare(checkpoint: Path, folder: Path) -> None:
    """What the policy would do at the start of the first episode, beside what was done there."""
    model, episode = loci.load(checkpoint), Dataset.open(folder).episode(0)
    policy = model.policy().init(episode.task)
    names = model.config.embodiment.camera_names
    policy.observe({name: episode.frames(name, [0]) for name in names}, episode[STATE][0])
    acted = policy.act()[0]
    error = (acted - torch.tensor(episode[ACTION][: len(acted)])).abs().mean()
    print(f"'{episode.task}': the first {len(acted)} actions are {error:.3f} off in the mean")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a policy on a LeRobot v3.0 dataset.")
    parser.add_argument("--data", type=Path, help="the dataset (default: one is recorded)")
    parser.add_argument("--episodes", type=int, default=8, help="to record without --data")
    parser.add_argument("--cameras", default="head,left_wrist,right_wrist", help="1 or 3 names")
    parser.add_argument("--row", default="window", help="the memory: none, window, full, ...")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/mine"))
    asked = parser.parse_args()
    if asked.data is None:
        asked.data = asked.out.with_name(asked.out.name + "-data")
        record_tabletop("put-back-block", asked.episodes, asked.data)
    run = recipe(asked.data, asked.cameras.split(","), loci.ROWS[asked.row], asked.steps)
    summary = loci.train(run, asked.out)
    print(f"{summary.steps} steps in {summary.minutes:.1f} minutes, loss {summary.loss:.3f}")
    compare(asked.out / "model.safetensors", asked.data)


if __name__ == "__main__":
    main()
