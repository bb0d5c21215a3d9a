"""Python files of the user's: run as modules of their own, and known by name and digest."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import zlib
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from loci.config import Config
from loci.errors import LociError

# What was run may have changed on the disk since: the digest is taken when a file is first met.
_digests: dict[Path, str] = {}


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
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        raise LociError(f"{path} is not a Python file; give a {what} file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their annotations up in the module of their class.
    sys.modules[name] = module
    try:
        source = place.read_bytes()
        # The bytes that are run are those that the digest tells of, not a compiled file's.
        exec(spec.loader.source_to_code(source, str(place)), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        cause = cause.removeprefix("LociError: ").removesuffix("; fix it")
        raise LociError(f"{path} does not load: {cause}; fix it") from error
    _digests[place] = _twelve(source)
    return module


Files = list[dict[str, str]]


def source_files(config: Config) -> dict[str, Files]:
    """The user's files in which the classes of `config`, and of the configurations in it, are
    written; for a protocol.

    {"files": [{"file": name, "sha256": first 12 digits}, ...]}, or {} where all classes are Loci's:
    its commit and the configuration's hash then say all. What these files import is not followed; a
    class that was typed at a prompt goes by its module, without digits.
    """
    found = {
        place for each in _configs(config) for kind in type(each).__mro__
        if issubclass(kind, Config) and kind.__module__.partition(".")[0] != "loci"
        for place in [_place(kind.__module__)]
    }
    named = [(place.name, _digest(place)) for place in found]
    files = [{"file": name, "sha256": digest} for name, digest in sorted(named)]
    return {"files": files} if files else {}


def describe_sources(protocol: Mapping[str, Any]) -> str:
    """The names and digests of the files in a protocol, for a message."""
    files: Files = protocol.get("files", [])
    return ", ".join(f"{f['file']} ({f['sha256']})" for f in files) or "no file of yours"


def _configs(value: object) -> list[Config]:
    """All configurations in a tree, the value itself included."""
    if isinstance(value, Config):
        return [value] + [c for part in vars(value).values() for c in _configs(part)]
    parts = value.values() if isinstance(value, dict) else value
    return [c for p in parts for c in _configs(p)] if isinstance(value, dict | list | tuple) else []


def _place(module: str) -> Path:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).resolve() if file is not None else Path(module)


def _digest(place: Path) -> str:
    if place not in _digests:
        _digests[place] = _twelve(place.read_bytes()) if place.is_file() else ""
    return _digests[place]


def _twelve(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:12]
