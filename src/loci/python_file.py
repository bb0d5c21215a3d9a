"""A Python file of the user's, run as a module of its own."""

from __future__ import annotations

import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType

from loci.errors import LociError


def load_file(path: str | Path, what: str) -> ModuleType:
    """The module that a file makes. It is run once in a process, also where the process itself
    runs it as a script.

    what: what the file holds, for messages. Raises LociError for a file that is missing, is no
    Python, or fails.
    """
    place = Path(path).resolve()
    name = f"loci_file_{place.stem}_{zlib.crc32(str(place).encode()):08x}"
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is not None and Path(script).resolve() == place:
        return sys.modules["__main__"]
    if name in sys.modules:
        return sys.modules[name]
    if not place.is_file():
        raise LociError(f"no {what} file {path}; check the path")
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise LociError(f"{path} is not a Python file; give a {what} file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their annotations up in the module of their class.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        cause = cause.removeprefix("LociError: ").removesuffix("; fix it")
        raise LociError(f"{path} does not load: {cause}; fix it") from error
    return module
