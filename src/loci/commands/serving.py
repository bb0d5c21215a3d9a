"""`loci serve` and `loci play`: models behind a socket, and a page to drive them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from loci.commands.options import maybe, named


def serve(
    checkpoint: Positional[Annotated[str, named("CHECKPOINT")]],
    /,
    *,
    host: Annotated[str, named("ADDRESS")] = "127.0.0.1",
    port: Annotated[int, named("N")] = 8000,
    device: Annotated[str, named("DEVICE")] = "cpu",
    sessions: Annotated[Path | None, maybe("DIR", "none can be saved")] = None,
    save_on_exit: bool = False,
    keep_lost: Annotated[int, named("N")] = 0,
    max_sessions: Annotated[int, named("N")] = 256,
    slots: Annotated[int, named("N")] = 64,
    memory: Annotated[float, named("GB")] = 2.0,
    frames: Annotated[int, named("N")] = 512,
    max_batch: Annotated[int, named("N")] = 32,
    max_message: Annotated[int, named("BYTES")] = 64_000_000,
    max_chunks: Annotated[int, named("N")] = 64,
    rate: Annotated[float | None, maybe("N", "any")] = None,
    seed: Annotated[int, named("S")] = 0,
    steps: Annotated[int | None, maybe("N", "the model's")] = None,
    temperature: Annotated[float | None, maybe("T", "the model's")] = None,
    certificate: Annotated[Path | None, maybe("PEM", "no TLS")] = None,
    private_key: Annotated[Path | None, maybe("PEM", "no TLS")] = None,
) -> None:
    """Serve a policy or a world model: clients of openpi connect, and each has a memory of its own.

    Other machines can connect where --host names another address, once the environment variable
    LOCI_API_KEY holds a key that they have to know. Ends at SIGINT or SIGTERM, when what waits is
    answered. The log is lines of JSON; GET /healthz and /metrics say how it is.

    Args:
        checkpoint: A model made by `loci train`, or the name of one that ships.
        host: Address to listen on.
        port: Port to listen on, 0 for any that is free.
        device: Where the model is: cpu, cuda, cuda:1.
        sessions: Folder of the sessions that clients save.
        save_on_exit: Save living sessions, under their names, when the server ends.
        keep_lost: Keep the sessions of clients that vanished, the newest N of them, in the folder
            `lost` of DIR. A client that comes back resumes its own.
        max_sessions: Sessions at once; those that do not fit into memory wait on disk.
        slots: Sessions in memory at once, fewer where GB do not hold them.
        memory: Gigabytes for what sessions remember.
        frames: Frames that a session may see, where its memory grows with them.
        max_batch: Requests that run together. With 1, each answer is that of a lone robot, bit for
            bit; together they agree to rounding.
        max_message: Bytes of a request, at most.
        max_chunks: Chunks of a world in one request, at most.
        rate: Requests a second of one session, at most.
        seed: Of the noise of sessions that give no seed.
        steps: Denoising steps.
        temperature: Of a policy: the scale of the noise.
        certificate: Of TLS, with its chain.
        private_key: Of TLS.
    """
    from loci.commands.serve import serve as serve_model
    from loci.serving.options import ServeOptions

    serve_model(checkpoint, ServeOptions(
        host=host, port=port, device=device, saved=sessions, save_on_exit=save_on_exit,
        keep_lost=keep_lost, max_sessions=max_sessions, slots=slots, memory=memory, frames=frames,
        max_batch=max_batch, max_message=max_message, max_chunks=max_chunks, rate=rate, seed=seed,
        steps=steps, temperature=temperature, certificate=certificate, private_key=private_key,
        api_key=os.environ.get("LOCI_API_KEY"),
    ))


def play(
    checkpoints: Positional[Annotated[tuple[str, ...], named("CHECKPOINT")]] = (),
    /,
    *,
    host: Annotated[str, named("ADDRESS")] = "127.0.0.1",
    port: Annotated[int, named("N")] = 8010,
) -> None:
    """Drive memories on a page. World models walk through rooms: look around, close your eyes, turn
    back, compare. Policies play an episode of their task: watch, move the block while they do not
    look, empty the memory.

    Args:
        checkpoints: World models and policies, or folders of some; without any, all that ship. The
            first goes along from the start, the others can be chosen and added on the page.
        host: Where to listen. There is no key: beyond this machine, whoever finds it can play.
        port: Where to listen; 0 takes any that is free.
    """
    from loci.commands.play import play as serve_page

    serve_page(checkpoints, host, port)
