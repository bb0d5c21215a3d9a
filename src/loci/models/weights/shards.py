"""Weights in a file, or in a folder of shards as diffusers and the Hub write them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from loci.errors import LociError

INDEX = ".safetensors.index.json"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of the shards in a folder.

    Where the folder has an index, exactly the files that it names are read, whatever lies beside
    them. Without one, no tensor may stand in two files. Raises LociError that names the file which
    is missing, damaged, or of no use.
    """
    path = Path(path)
    files, wanted = _files(path)
    tensors: dict[str, Tensor] = {}
    source: dict[str, Path] = {}
    for file in files:
        for name, tensor in _read(file).items():
            if name in source:
                raise LociError(
                    f"the tensor '{name}' stands in {source[name]} and in {file.name}; "
                    f"take one of them out of {path}, or name the file that is meant"
                )
            tensors[name], source[name] = tensor, Path(file.name)
    for name, file in wanted.items():
        if source.get(name) != Path(file):
            raise LociError(f"{path / file} lacks the tensor '{name}' of its index; fetch it again")
    return tensors


def _files(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The files to read, and which tensor each has to hold where an index says so."""
    if not path.is_dir():
        if not path.is_file():
            raise LociError(f"no weights at {path}; give a checkpoint, or a folder of .safetensors")
        return [path], {}
    # A variant (model.fp16.safetensors.index.json) stands beside the plain one, or alone.
    indices = sorted(path.glob(f"*{INDEX}"), key=lambda p: (p.name.count("."), p.name))
    if indices:
        wanted = _read_index(indices[0])
        files = [path / name for name in sorted(set(wanted.values()))]
        for file in files:
            if not file.is_file():
                raise LociError(f"{file} is missing, and {indices[0].name} names it; fetch it")
        return files, wanted
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise LociError(f"no weights at {path}; give a checkpoint, or a folder of .safetensors")
    return files, {}


def _read_index(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(where) for name, where in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LociError(f"{file} is no index of weights ({error}); fetch it again") from error
    for where in names.values():
        if Path(where).name != where:
            raise LociError(f"{file} names '{where}', which is no file beside it; fetch it again")
    return names


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LociError(f"{file} is damaged ({error}); fetch it again") from error
