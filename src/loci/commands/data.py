"""`loci data`: datasets of demonstrations, in LeRobot's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from loci.commands.options import maybe, named
from loci.commands.spelling import CommandGroup
from loci.errors import LociError

if TYPE_CHECKING:
    from loci.data.lerobot.check import Expected

BROKEN = 1

app = CommandGroup()


@app.command(name="record")
def record_data(
    *,
    task: Annotated[str, named("TASK")],
    episodes: Annotated[int, named("N")],
    out: Annotated[Path, named("DIR")],
    seed: Annotated[int | None, maybe("S", "behind those that policies are judged on")] = None,
    steady: bool = False,
    drift: Annotated[float, named("RADIANS")] = 0.0,
    quality: Literal["high", "lossless"] = "high",
) -> None:
    """Record an expert at a tabletop task as a LeRobot v3.0 dataset. Run it again to continue.

    Args:
        task: Name of a tabletop task.
        episodes: Record until the dataset has so many.
        out: Folder of the dataset, new or with some episodes of the same task.
        seed: The first episode's; further ones count up.
        steady: Do not push the expert, which then shows no recoveries.
        drift: Mean angle by which its arms leave their way at the end of every chunk; the next one
            returns (0.01 is some millimetres; `press-button` is trained with it).
        quality: Of the videos.
    """
    from loci.commands.record import record_tabletop

    first = {} if seed is None else {"seed": seed}
    done = record_tabletop(task, episodes, out, steady=steady, drift=drift, quality=quality,
                           **first)
    left_out = f", {len(done.failed)} not solved and left out" if done.failed else ""
    print(f"{out}: {len(done.kept)} episodes recorded{left_out}; loci data check {out}")


@app.command
def check(
    folder: Positional[Annotated[Path, named("FOLDER")]],
    /,
    *,
    config: Annotated[Path | None, maybe("FILE", "any dataset will do")] = None,
    quick: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what a LeRobot v3.0 dataset holds and what is wrong with it. Nothing is changed.

    Ends with 1 where something is broken.

    Args:
        folder: The dataset.
        config: What a model wants of it, JSON: any of action, state (widths), cameras (names),
            height, width, fps; or the config.json of a policy's training.
        quick: Do not decode the videos: only check that their frames are there and whole.
        as_json: Print JSON instead of lines.
    """
    from loci.data.lerobot.check import check as run_check

    report = run_check(folder, read_expected(config) if config else None, quick)
    print(json.dumps(report.to_dict(), indent=2) if as_json else "\n".join(report.lines()))
    if report.broken:
        raise SystemExit(BROKEN)


def read_expected(path: str | Path) -> Expected:
    """What the JSON file `path` asks for: settings of `Expected`, or the config.json of a policy's
    training. Raises LociError for an unknown or unusable key."""
    from loci.data.lerobot.check import Expected

    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LociError(f"cannot read {path} ({error}); give a JSON file") from error
    if not isinstance(data, dict):
        raise LociError(f'{path} holds no map of settings; give one, as {{"action": 14}}')
    if "type" not in data:
        return Expected.from_dict(data)
    from loci.training.policy import PolicyRun

    run = PolicyRun.from_dict(data)
    expert = run.model.expert
    return Expected(action=expert.actions, state=expert.proprio, cameras=run.data.camera_names)
