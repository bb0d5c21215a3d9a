"""`loci play`: a page on which people drive world models and watch policies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from loci.errors import LociError
from loci.io.bundled import bundled_names, resolve_checkpoint
from loci.io.checkpoint import checkpoint_kind
from loci.models.load import MODELS, Model, load
from loci.serving.play.game import Game
from loci.serving.play.server import serve_page

# What is there without being asked for, the most telling first.
FIRST = ("hybrid", "context-20", "none")
# Models in memory at once.
LOADED = 8


def play(checkpoints: Sequence[str], host: str, port: int) -> None:
    """Serve the page with these checkpoints, or the folders of some, until Ctrl-C. Raises LociError
    where there is no model among them, and for an address that is not free."""
    found = models(checkpoints)
    kinds = {name: checkpoint_kind(path) for name, path in found.items()}
    for name, kind in kinds.items():
        if kind not in MODELS:
            raise LociError(f"{name} holds a {kind}; give a {' or a '.join(MODELS)}")

    @lru_cache(LOADED)
    def loaded(name: str) -> Model:
        return load(found[name])

    loaded(next(iter(found)))  # whatever is wrong with it is said before the page is there
    async def run() -> None:
        try:
            server = await serve_page(lambda: Game(loaded, kinds), host, port)
        except OSError as error:
            raise LociError(f"cannot listen on {host}:{port}: {error.strerror}; choose another "
                            "--port") from error
        number = server.sockets[0].getsockname()[1]
        print(f"http://{host}:{number}/ (Ctrl-C ends it)", flush=True)
        await server.serve_forever()

    asyncio.run(run())


def models(checkpoints: Sequence[str]) -> dict[str, Path]:
    """World models and policies by name: those that are named, those in folders that are, or all
    that ship."""
    if not checkpoints:
        names = [*FIRST, *(name for name in bundled_names() if name not in FIRST)]
        shipped = {name: resolve_checkpoint(name) for name in names}
        return {name: path for name, path in shipped.items() if _is_model(path)}
    found: dict[str, Path] = {}
    for given in checkpoints:
        folder = Path(given)
        paths = sorted(folder.glob("**/*.safetensors")) if folder.is_dir() else []
        kept = [path for path in paths if _is_model(path)]
        if folder.is_dir() and not kept:
            raise LociError(f"no model in {folder}; name a folder of checkpoints")
        for path in kept or [resolve_checkpoint(given)]:
            # A run calls its checkpoint model.safetensors: its folder says which one it is.
            name = path.parent.name if path.stem == "model" else path.stem
            if name in found:
                raise LociError(
                    f"two models are called {name}, {found[name]} and {path}; rename one"
                )
            found[name] = path
    return found


def _is_model(path: Path) -> bool:
    try:
        return checkpoint_kind(path) in MODELS
    except LociError:
        return False
