"""Python files of the user's: run as modules, known by their digests, named where they fail."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from loci.config import Config
from loci.errors import LociError

# A module keeps the digest of the text that was run: the file may have changed on the disk since.
DIGEST = "__loci_digest__"
Files = list[dict[str, str]]


def load_file(path: str | Path, what: str) -> ModuleType:
    """The module that a file makes. It is run once in a process, also where the process itself
    runs it as a script.

    what: what the file holds, for messages. Raises LociError for a file that is missing, is no
    Python, or fails, with the line that failed.
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
        # These bytes are run, and not a compiled file: the digest is theirs.
        vars(module)[DIGEST] = _digest(source)
        exec(spec.loader.source_to_code(source, str(place)), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        line = _line(error, place)
        where = f"{path}, line {line}," if line else f"{path}"
        cause = one_line(error).removesuffix("; fix it")
        raise LociError(f"{where} does not load: {cause}; fix it") from error
    return module


def source_files(config: Config) -> dict[str, Files]:
    """The user's files in which the classes of `config`, and of the configurations in it, are
    written; for a protocol.

    {"files": [{"file": name, "sha256": first 12 digits}, ...]}, or {} where all classes are Loci's,
    since its commit and the configuration's hash identify those. Imports of these files are not
    followed. A class that was typed at a prompt is named by its module, without digits.
    """
    modules = {
        kind.__module__ for each in _configs(config) for kind in type(each).__mro__
        if issubclass(kind, Config) and kind.__module__.partition(".")[0] != "loci"
    }
    named = {_file(module) for module in modules}
    files = [{"file": name, "sha256": digest} for name, digest in sorted(named)]
    return {"files": files} if files else {}


def describe_sources(protocol: Mapping[str, Any]) -> str:
    """The names and digests of the files in a protocol, for a message."""
    files: Files = protocol.get("files", [])
    return ", ".join(f"{f['file']} ({f['sha256']})" for f in files) or "no file of yours"


def failing_line(error: BaseException) -> str | None:
    """Where in the user's files an error arose: "my_memory.py, line 12, in rule".

    None where no file of the user's is in the traceback. Otherwise the innermost line that belongs
    to the user: to a loaded file, or to one that it imports.
    """
    frames = traceback.extract_tb(error.__traceback__)
    loaded = {
        module.__file__ for module in sys.modules.values() if isinstance(module, ModuleType)
        and DIGEST in vars(module)
    }
    if not any(frame.filename in loaded for frame in frames):
        return None
    paths = sysconfig.get_paths()
    libraries = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    libraries.append(str(Path(__file__).parents[1]))
    own = [
        frame for frame in frames
        if frame.filename in loaded
        or not (frame.filename.startswith("<") or _below(frame.filename, libraries))
    ]
    last = own[-1]
    return f"{last.filename}, line {last.lineno}, in {last.name}"


def one_line(error: BaseException) -> str:
    """An error's type and message in one line; of a LociError the message."""
    text = " ".join(str(error).split())
    return text if isinstance(error, LociError) else f"{type(error).__name__}: {text}"


def _line(error: BaseException, place: Path) -> int | None:
    """The last line of a file that took part in an error."""
    if isinstance(error, SyntaxError) and error.filename == str(place):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno for f in reversed(frames) if f.filename == str(place)), None)


def _below(file: str, folders: list[str]) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _configs(value: object) -> list[Config]:
    """All configurations in a tree, the value itself included."""
    if isinstance(value, Config):
        return [value] + [c for part in vars(value).values() for c in _configs(part)]
    parts = value.values() if isinstance(value, dict) else value
    return [c for p in parts for c in _configs(p)] if isinstance(value, dict | list | tuple) else []


def _file(name: str) -> tuple[str, str]:
    """The name of a module's file and its digest, "" for a module without a file."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or file is None or not Path(file).is_file():
        return (name if file is None else Path(file).name), ""
    if DIGEST not in vars(module):
        vars(module)[DIGEST] = _digest(Path(file).read_bytes())
    return Path(file).name, vars(module)[DIGEST]


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:12]
