"""The command `loci`.

Each command is a function: its signature is the options, its docstring the help. What a command
needs is imported inside it, so that `loci --help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import tyro
from tyro.conf import Positional, arg

from loci import __version__
from loci.commands import closed_loop_options as evaluation
from loci.commands import data, serving, weights, worlds
from loci.commands.generate import generate
from loci.commands.messages import messages_shown
from loci.commands.options import listed, maybe, named
from loci.commands.spelling import CommandGroup, check_spelling
from loci.commands.train import train
from loci.errors import LociError
from loci.io.extras import missing
from loci.io.user_code import failing_line, one_line

USAGE, INTERRUPTED, BROKEN_PIPE, BUG = 2, 130, 141, 1

app = CommandGroup()
app.command(train)


@app.command
def study(
    name: Positional[Annotated[str, named("NAME")]],
    /,
    *,
    out: Annotated[Path, named("DIR")],
    rows: Annotated[str | None, maybe("A,B", "all")] = None,
    tasks: Annotated[str | None, maybe("A,B", "all")] = None,
    cases: Annotated[int | None, maybe("N", "64 rooms, 100 episodes")] = None,
    seed: Annotated[int, named("S")] = 0,
    from_scratch: bool = False,
    finished: bool = False,
    replace: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Compare memory rows on the same cases with the same noise: results.json and report.html.

    Before it begins it says what is trained and played, and about how long that takes. Stopped or
    killed, the same command goes on.

    Args:
        name: ground, families, evidence, returns or geometry, of world models in rooms; wam, of
            policies.
        out: Folder of the results. What is finished there is not made again.
        rows: Only these rows, separated by commas.
        tasks: wam: only these tasks, separated by commas.
        cases: Number of held-out rooms, or of episodes.
        seed: Picks other held-out rooms or episodes.
        from_scratch: Train the rows first, instead of loading the checkpoints that ship.
        finished: wam: only what is finished in DIR, some rows at some tasks; nothing is trained.
        replace: Results in DIR may be replaced by others, or by fewer.
        as_json: Print the results as JSON instead of tables.
    """
    from loci.commands.show import show
    from loci.commands.study import study as compare
    from loci.commands.study import table
    from loci.study.studies import StudyOptions

    results = compare(name, out, StudyOptions(
        rows=listed(rows), tasks=listed(tasks, "task"), cases=cases, seed=seed,
        from_scratch=from_scratch, finished=finished, replace=replace,
    ))
    show(results, [table(results)], as_json)
    if not as_json:
        print(out / "report.html")


@app.command
def report(folder: Positional[Annotated[Path, named("DIR")]], /) -> None:
    """Write the page of a study anew, DIR/report.html, from the results in DIR.

    Args:
        folder: Folder of a study.
    """
    from loci.report.page import write_report

    print(write_report(folder))


@app.command
def probe(
    checkpoint: Positional[Annotated[str, named("CHECKPOINT")]],
    /,
    *,
    cases: Annotated[int, named("N")] = 64,
    seed: Annotated[int, named("S")] = 0,
    out: Annotated[Path | None, maybe("FILE", "print only")] = None,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Ask a checkpoint's memory what it stores, beside what generation reads out of it.

    Args:
        checkpoint: A world model made by `loci train`, or the name of one that ships.
        cases: Number of held-out rooms.
        seed: Picks other held-out rooms.
        out: A file for the results, as JSON.
        as_json: Print the results as JSON instead of a table.
    """
    from loci.commands.probe import probe as ask
    from loci.commands.probe import table
    from loci.commands.show import show

    found = ask(checkpoint, cases, seed, out)
    show(found, [table(found)], as_json)


@app.command
def bench(
    *,
    policy: Annotated[Literal["small", "paper"] | None, maybe("{small,paper}", "the rooms")] = None,
    rows: Annotated[str | None, maybe("A,B", "all")] = None,
    frames: Annotated[str | None, maybe("N,M", "25,100,400, of a policy up to 6400")] = None,
    repeats: Annotated[int, named("N")] = 7,
    memory: Annotated[float | None, maybe("GB", "half of what is free")] = None,
    out: Annotated[Path | None, maybe("FILE", "not written")] = None,
    plot: Annotated[Path | None, maybe("SVG", "not drawn")] = None,
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
        memory: Gigabytes for what all rows remember; beyond it the largest are left out.
        out: A file for the results, JSON.
        plot: A file for a plot of them, milliseconds and bytes against frames.
        as_json: Print the results as JSON instead of a table.
    """
    from loci.commands import bench as benches
    from loci.commands.show import show
    from loci.io.files import atomic_write, check_file

    if plot is not None:
        if plot.suffix != ".svg":
            raise LociError(f"the plot is an SVG; name {plot.with_suffix('.svg')}")
        check_file(plot)
    lengths = None if frames is None else benches.parse_frames(frames)
    results = benches.bench(policy, listed(rows), lengths, repeats, memory, out)
    if plot is not None:
        from loci.commands.bench_plot import cost
        from loci.report.svg import standalone

        atomic_write(plot, standalone(cost(results)))
    show(results, benches.tables(results), as_json)


@app.command
def rollout(
    checkpoint: Positional[Annotated[str, named("CHECKPOINT")]],
    /,
    *,
    path: Annotated[str, named("NAME")],
    out: Annotated[Path, named("MP4")],
    first_frame: Annotated[Path | None, maybe("IMG", "a view of room S")] = None,
    seed: Annotated[int, named("S")] = 0,
    steps: Annotated[int | None, maybe("N", "the model's")] = None,
    resize: bool = False,
    depth: Annotated[Path | None, maybe("FILE", "none")] = None,
) -> None:
    """Generate a video: from a first frame, along a camera path.

    Args:
        checkpoint: A world model made by `loci train`, or the name of one that ships.
        path: Name of a camera path (loop180, walk-return, ...), or a file of poses.
        out: The video to write.
        first_frame: A picture of the model's size.
        seed: Seed of the noise, and number of the held-out room.
        steps: Denoising steps a chunk.
        resize: Take the middle of a picture of another size.
        depth: Depth of the picture (PNG in mm, or .npy), for memories that ask for it.
    """
    from loci.commands.rollout import rollout as generate

    generate(checkpoint, first_frame, path, out, seed, steps, resize, depth)
    print(out)


app.command(generate)
app.command(serving.serve)
app.command(serving.play)


@app.command(name="map")
def map_(
    source: Positional[Annotated[str, named("SOURCE")]],
    /,
    *,
    out: Annotated[Path, named("PLY")],
    picture: Annotated[Path | None, maybe("PNG", "not drawn")] = None,
    form: Annotated[Literal["voxels", "tsdf"] | None, maybe("{voxels,tsdf}", "voxels")] = None,
    voxel: Annotated[float | None, maybe("METRES", "0.05")] = None,
    seed: Annotated[int | None, maybe("S", "0")] = None,
    path: Annotated[str | None, maybe("NAME", "loop180")] = None,
    split: Annotated[
        Literal["train", "heldout", "open"] | None, maybe("{train,heldout,open}", "heldout")
    ] = None,
) -> None:
    """Write the map of a session, or of a room, as points for a viewer, and draw it.

    Args:
        source: A saved session whose memory has a map; an episode that a study keeps; or the word
            rooms.
        out: The points to write: places, normals where known, colours, weight, last frame.
        picture: A picture to draw: plan, views around, how much of each frame was known before.
        form: Of an episode: what the map is made of.
        voxel: Of an episode: the width of a voxel.
        seed: Rooms: which one.
        path: Rooms: name of the camera path.
        split: Rooms: which of them.
    """
    from loci.commands.map import export

    export(source, out, picture, form, voxel, seed, path, split)


@app.command
def doctor(*, as_json: Annotated[bool, arg(name="json")] = False) -> None:
    """Say what is installed, how fast this machine is, and what is missing.

    Args:
        as_json: Print JSON instead of a table.
    """
    from loci.commands.doctor import diagnose, show

    diagnosis = diagnose()
    if as_json:
        print(json.dumps(diagnosis, indent=2))
    else:
        show(diagnosis)
    if any(verdict["level"] == "fail" for verdict in diagnosis["verdicts"]):
        raise SystemExit(BUG)


app.command(evaluation.app, name="eval", help="Policies at work, world models on scenes.")
app.command(data.app, name="data", help="Datasets of demonstrations, in LeRobot's format.")
app.command(
    weights.app, name="weights", help="Weights of Wan: inspect, convert, verify. Models: push."
)
app.command(
    worlds.app,
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
        with messages_shown():
            _run(arguments)
        sys.stdout.flush()
    except LociError as error:
        where = failing_line(error)
        _leave(f"error: {where}: {error}" if where else f"error: {error}", USAGE)
    except ModuleNotFoundError as error:
        line = missing(error)
        if line is None:
            _unexpected(error)
        _leave(f"error: {line}", USAGE)
    except KeyboardInterrupt as error:
        _leave(str(error) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader left (`loci ... | head`): Python must not try to flush again on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except Exception as error:  # noqa: BLE001 (the outermost place: nothing is swallowed)
        _unexpected(error)


def _run(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        print(f"loci {__version__}")
        return
    check_spelling(app, arguments, "loci")
    app.cli(
        prog="loci",
        description="Memory for action world models: train it, measure it, show it.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )


def _unexpected(error: Exception) -> NoReturn:
    """End with an unexpected error: the user's where it arose in a user's file, or else Loci's."""
    cause, where = one_line(error), failing_line(error)
    if where:
        _leave(f"error: {where}: {cause}; fix it (LOCI_DEBUG=1 shows all of it)", USAGE)
    _leave(f"error: unexpected {cause}; LOCI_DEBUG=1 shows where, please report it", BUG)


def _leave(line: str, code: int) -> NoReturn:
    """End with one line on standard error, or with the traceback where LOCI_DEBUG=1 asks for it."""
    if os.environ.get("LOCI_DEBUG") == "1":
        raise
    print(f"loci: {line}", file=sys.stderr)
    raise SystemExit(code) from None


if __name__ == "__main__":
    main()
