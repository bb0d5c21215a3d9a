"""The command `loci`.

Each command is a function: its signature is the options, its docstring the help. What a command
needs is imported inside it, so that `loci --help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from loci import __version__
from loci.errors import LociError

USAGE, INTERRUPTED, BROKEN_PIPE, BUG = 2, 130, 141, 1

# Columns of a terminal in which a table fits with its intervals.
WIDE = 150

app = tyro.extras.SubcommandApp()
worlds = tyro.extras.SubcommandApp()
evaluation = tyro.extras.SubcommandApp()
data = tyro.extras.SubcommandApp()


def _name(metavar: str) -> Any:
    """What the help calls a value."""
    return arg(metavar=metavar)


def _or(metavar: str, otherwise: str) -> Any:
    """The same for a value that may be left out: what happens then."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {otherwise})")


def _names(text: str | None, what: str = "row") -> tuple[str, ...] | None:
    """Rows (or tasks) separated by commas; None are all of them."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise LociError(f"'{text}' names no {what}; give --{what}s a,b")
    return names


@app.command
def train(
    recipe: Positional[Annotated[str, _name("RECIPE")]],
    /,
    *,
    out: Annotated[Path, _name("DIR")],
    resume: bool = False,
    steps: Annotated[int | None, _or("N", "the recipe's")] = None,
    seed: Annotated[int | None, _or("S", "the recipe's")] = None,
    threads: Annotated[int | None, _or("N", "all cores")] = None,
    device: Annotated[Literal["cpu", "cuda"] | None, _or("{cpu,cuda}", "cuda if usable")] = None,
) -> None:
    """Train a recipe to a checkpoint, DIR/model.safetensors.

    Args:
        recipe: Name of a recipe, or path/to/file.py:function.
        out: Folder of the run: settings, log, state and checkpoint.
        resume: Continue the run that DIR holds, stopped or killed at any moment. On a CPU the
            weights come out the same, bit for bit.
        steps: Number of steps.
        seed: Seed of weights, data and noise.
        threads: On a CPU, each takes a part of the batch.
        device: Where to train.
    """
    from loci.training.run import run_recipe

    summary = run_recipe(recipe, out, resume, steps, seed, threads, device)
    print(
        f"{out}: {summary.steps} steps in {summary.minutes:.1f} min, loss {summary.loss:.4f}, "
        f"weights {summary.weights}"
    )


@app.command
def study(
    name: Positional[Annotated[str, _name("NAME")]],
    /,
    *,
    out: Annotated[Path, _name("DIR")],
    rows: Annotated[str | None, _or("A,B", "all")] = None,
    tasks: Annotated[str | None, _or("A,B", "all")] = None,
    cases: Annotated[int | None, _or("N", "64 rooms, 100 episodes")] = None,
    seed: Annotated[int, _name("S")] = 0,
    from_scratch: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Compare memory rows on the same cases with the same noise: results.json and report.html.

    Args:
        name: ground or families, of world models in rooms; wam, of policies at tasks.
        out: Folder of the results. What is finished there is not made again.
        rows: Only these rows, separated by commas.
        tasks: wam: only these tasks, separated by commas.
        cases: Number of held-out rooms, or of episodes.
        seed: Picks other held-out rooms or episodes.
        from_scratch: Rooms: train the rows first, instead of loading the checkpoints that ship.
        as_json: Print the results as JSON instead of tables.
    """
    from loci.evaluation.studies import Asked, find_study

    if cases is not None and cases < 1:
        raise LociError("a study needs a case; give --cases 1 or more")
    asked = Asked(
        rows=_names(rows), tasks=_names(tasks, "task"), cases=cases, seed=seed,
        from_scratch=from_scratch,
    )
    found = find_study(name)
    results = found.run(out, asked)
    if as_json:
        print(json.dumps(results, indent=2))
        return
    from rich.console import Console

    console = Console()
    console.print(found.table(results, console.width >= WIDE))
    print(out / "report.html")


@app.command
def probe(
    checkpoint: Positional[Annotated[Path, _name("CHECKPOINT")]],
    /,
    *,
    cases: Annotated[int, _name("N")] = 64,
    seed: Annotated[int, _name("S")] = 0,
    out: Annotated[Path | None, _or("FILE", "print only")] = None,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Ask a checkpoint's memory what it stores, beside what generation reads out of it.

    Args:
        checkpoint: A world model made by `loci train`.
        cases: Number of held-out rooms.
        seed: Picks other held-out rooms.
        out: A file for the results, as JSON.
        as_json: Print the results as JSON instead of a table.
    """
    from loci.evaluation.probe_command import probe as ask
    from loci.evaluation.probe_command import table

    found = ask(checkpoint, cases, seed, out)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from rich.console import Console

    Console().print(table(found))


@app.command
def bench(
    *,
    policy: Annotated[Literal["small", "paper"] | None, _or("{small,paper}", "the rooms")] = None,
    rows: Annotated[str | None, _or("A,B", "all")] = None,
    frames: Annotated[str | None, _or("N,M", "25,100,400, of a policy up to 6400")] = None,
    repeats: Annotated[int, _name("N")] = 7,
    memory: Annotated[float | None, _or("GB", "half of what is free")] = None,
    out: Annotated[Path | None, _or("FILE", "not written")] = None,
    plot: Annotated[Path | None, _or("SVG", "not drawn")] = None,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Measure what memory costs, row beside row: milliseconds, tokens and bytes against history.

    Args:
        policy: Robots of this size instead of the world model of the rooms: small is what two
            cores train, paper one layer of MemoryWAM.
        rows: Only these rows, separated by commas, and the one to which all are compared: none, of
            a policy window.
        frames: Measure after so many written frames.
        repeats: How often each thing is timed; rows take turns.
        memory: Gigabytes for what all rows of a policy remember; beyond it the largest are left
            out.
        out: A file for the results, JSON.
        plot: A file for a plot of them, milliseconds and bytes against frames.
        as_json: Print the results as JSON instead of a table.
    """
    from loci.evaluation import bench, policy_bench

    if memory is not None and policy is None:
        raise LociError("--memory limits what policies hold; give --policy small or paper with it")
    if plot is not None and plot.suffix != ".svg":
        raise LociError(f"the plot is an SVG; name {plot.with_suffix('.svg')}")
    lengths = None if frames is None else bench.parse_frames(frames)
    if policy is None:
        results = bench.run_bench(_names(rows), lengths or bench.FRAMES, repeats, out)
    else:
        results = policy_bench.run_policy_bench(
            policy, _names(rows), lengths or policy_bench.FRAMES, repeats, out,
            None if memory is None else 1e9 * memory,
        )
    if plot is not None:
        from loci.files import atomic_write
        from loci.report.cost_plots import cost
        from loci.report.svg import standalone

        atomic_write(plot, standalone(cost(results)))
    if as_json:
        print(json.dumps(results, indent=2))
        return
    from rich.console import Console

    console = Console()
    wide = console.width >= WIDE
    tables = policy_bench.tables(results, wide) if policy else [bench.table(results, wide)]
    for table in tables:
        console.print(table)


@app.command
def rollout(
    checkpoint: Positional[Annotated[Path, _name("CHECKPOINT")]],
    /,
    *,
    first_frame: Annotated[Path, _name("IMG")],
    path: Annotated[str, _name("NAME")],
    out: Annotated[Path, _name("MP4")],
    seed: Annotated[int, _name("S")] = 0,
    steps: Annotated[int | None, _or("N", "the model's")] = None,
) -> None:
    """Generate a video: from a first frame, along a camera path.

    Args:
        checkpoint: A world model made by `loci train`.
        first_frame: An image of the model's size.
        path: Name of a camera path (loop180, walk-return, ...), or a file of poses.
        out: The video to write.
        seed: Seed of the noise.
        steps: Denoising steps a chunk.
    """
    from loci.evaluation.rollout_command import rollout as generate

    generate(checkpoint, first_frame, path, out, seed, steps)
    print(out)


@evaluation.command(name="closed-loop")
def closed_loop(
    checkpoint: Positional[Annotated[Path, _name("CHECKPOINT")]],
    /,
    *,
    task: Annotated[str, _name("NAME")],
    out: Annotated[Path, _name("DIR")],
    episodes: Annotated[int, _name("N")] = 100,
    seed: Annotated[int, _name("S")] = 0,
    hold: Annotated[int, _name("N")] = 1,
    steps: Annotated[int | None, _or("N", "the model's")] = None,
    films: Annotated[int, _name("N")] = 3,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Let a policy do a task, episode after episode: success, stages and kinds of failure.

    What is done is kept in DIR; the same command goes on where it was stopped or killed.

    Args:
        checkpoint: A world-action model made by `loci train`.
        task: A task of the tabletop.
        out: Folder of the results: episodes.jsonl, results.json and videos.
        episodes: How many; 100 by the field's custom.
        seed: Of the policy's noise and, counting up, of the episodes.
        hold: How many times as long as in training the fact must be held.
        steps: Denoising steps of an act.
        films: Of so many episodes a video is kept.
        as_json: Print the results as JSON instead of a table.
    """
    from loci.evaluation.closed_loop_command import closed_loop as run
    from loci.evaluation.closed_loop_command import table

    found = run(checkpoint, task, out, episodes, seed, hold, steps, films)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from rich.console import Console

    Console().print(table(found))


@worlds.command
def render(
    world: Positional[Annotated[Literal["rooms", "tabletop"], _name("WORLD")]],
    /,
    *,
    out: Annotated[Path, _name("FILE")],
    seed: Annotated[int, _name("S")] = 0,
    path: Annotated[str | None, _or("NAME", "loop180")] = None,
    split: Annotated[
        Literal["train", "heldout", "open"] | None, _or("{train,heldout,open}", "heldout")
    ] = None,
    task: Annotated[str | None, _or("NAME", "put-back-block")] = None,
    hold: Annotated[int | None, _or("N", "1")] = None,
    view: Annotated[Literal["mosaic", "head"] | None, _or("{mosaic,head}", "mosaic")] = None,
) -> None:
    """Render a room along a camera path, or an expert at a task: a video, or a sheet of frames.

    Args:
        world: The world: rooms or tabletop.
        out: The file to write; its ending says what: .mp4 a video, .png a sheet.
        seed: Which room or episode.
        path: Rooms: name of a camera path.
        split: Rooms: which of them.
        task: Tabletop: name of a task.
        hold: Tabletop: how many times as long the fact must be held.
        view: Tabletop: all cameras or one.
    """
    others = {
        "rooms": {"--task": task, "--hold": hold, "--view": view},
        "tabletop": {"--path": path, "--split": split},
    }
    for option, value in others[world].items():
        if value is not None:
            raise LociError(f"{option} is not for {world}; leave it out")
    if world == "rooms":
        from loci.data.episodes import render_command

        render_command(split or "heldout", seed, path or "loop180", out)
    else:
        from loci.worlds.tasks.render_command import render_task

        render_task(
            task or "put-back-block", seed, out, 1 if hold is None else hold, view or "mosaic"
        )


@data.command(name="record")
def record_data(
    *,
    task: Annotated[str, _name("TASK")],
    episodes: Annotated[int, _name("N")],
    out: Annotated[Path, _name("DIR")],
    seed: Annotated[int | None, _or("S", "behind those that policies are judged on")] = None,
    steady: bool = False,
    quality: Literal["high", "lossless"] = "high",
) -> None:
    """Record an expert at a tabletop task as a LeRobot v3.0 dataset. Stopped, it goes on.

    Args:
        task: Name of a tabletop task.
        episodes: Record until the dataset has so many.
        out: Folder of the dataset, new or with some episodes of the same task.
        seed: The first episode's; further ones count up.
        steady: Do not disturb the expert, which then shows no recoveries.
        quality: Of the videos.
    """
    from loci.data.record_command import record_tabletop

    first = {} if seed is None else {"seed": seed}
    done = record_tabletop(task, episodes, out, steady=steady, quality=quality, **first)
    left_out = f", {len(done.failed)} not solved and left out" if done.failed else ""
    print(f"{out}: {len(done.kept)} episodes recorded{left_out}; loci data check {out}")


@data.command
def check(
    folder: Positional[Annotated[Path, _name("FOLDER")]],
    /,
    *,
    config: Annotated[Path | None, _or("FILE", "any dataset will do")] = None,
    quick: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what a LeRobot v3.0 dataset holds and what is wrong with it. Nothing is changed.

    Ends with 1 where something is broken.

    Args:
        folder: The dataset.
        config: What a model wants of it, JSON: any of action, state (widths), cameras (names),
            height, width, fps.
        quick: Do not decode the videos, only compare what their headers promise.
        as_json: Print JSON instead of lines.
    """
    from loci.data.lerobot_check import check as look
    from loci.data.lerobot_check import read_expected

    found = look(folder, read_expected(config) if config else None, quick)
    print(json.dumps(found.to_dict(), indent=2) if as_json else "\n".join(found.lines()))
    if found.broken:
        raise SystemExit(BUG)


@app.command
def doctor(*, as_json: Annotated[bool, arg(name="json")] = False) -> None:
    """Say what is installed, how fast this machine is, and what is missing.

    Args:
        as_json: Print JSON instead of a table.
    """
    from loci.doctor import diagnose, show

    found = diagnose()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    if any(verdict["level"] == "fail" for verdict in found["verdicts"]):
        raise SystemExit(BUG)


app.command(evaluation, name="eval", help="Policies at work.")
app.command(data, name="data", help="Datasets of demonstrations, in LeRobot's format.")
app.command(
    worlds,
    name="worlds",
    help="The worlds: rooms and a tabletop, rendered with exact ground truth.",
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command with these arguments (the process's own by default), and exit."""
    # Waiting threads that spin make a shared machine eight times slower; it must be set before
    # torch is loaded. https://gcc.gnu.org/onlinedocs/libgomp/OMP_005fWAIT_005fPOLICY.html
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            _run(arguments)
        sys.stdout.flush()
    except LociError as error:
        _leave(f"error: {error}", USAGE)
    except KeyboardInterrupt as error:
        _leave(str(error) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader left (`loci ... | head`): Python must not try to flush again on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except Exception as error:  # noqa: BLE001 (the outermost place: nothing is swallowed)
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        _leave(f"error: unexpected {cause}; LOCI_DEBUG=1 shows where, please report it", BUG)


def _run(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        print(f"loci {__version__}")
        return
    app.cli(
        prog="loci",
        description="Memory for action world models: train it, measure it, show it.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"loci: warning: {message}", file=sys.stderr)


def _leave(line: str, code: int) -> None:
    """End with one line on standard error, or with the traceback where LOCI_DEBUG=1 asks for it."""
    if os.environ.get("LOCI_DEBUG") == "1":
        raise
    print(f"loci: {line}", file=sys.stderr)
    raise SystemExit(code) from None


if __name__ == "__main__":
    main()
