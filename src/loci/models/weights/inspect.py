"""What lies in a download: read only, and only the heads of the files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from loci.errors import LociError
from loci.io.bundled import resolve_checkpoint
from loci.models.wan import Wan
from loci.models.weights import text_encoder, vae, wan
from loci.models.weights.fill import shapes_of
from loci.models.weights.layout import PIPELINE, Layout
from loci.models.weights.recognise import Part, recognise
from loci.models.weights.released import released_name
from loci.models.weights.shards import StoredTensors, open_weights

# The parts of downloads: folders of a pipeline, the two experts of 2.2 14B, and files beside them.
FOLDERS = (
    "transformer", "transformer_2", "vae", "text_encoder", "high_noise_model", "low_noise_model",
)
FILES = ("Wan*_VAE.pth", "models_t5*.pth")


@dataclass(frozen=True)
class Inspection:
    """Of one part. sizes: its configuration, {} where nothing tells it; model: the name of a
    released one. dtypes: how many tensors there are of each. wrong: lines, none for a whole one."""

    path: str
    part: Part
    layout: Layout | None
    model: str | None
    files: int
    bytes: int
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    sizes: dict[str, Any]
    wrong: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"wrong": list(self.wrong)}


def inspect_weights(path: str | Path) -> list[Inspection]:
    """What each part at `path` is, and what is missing from it. LociError where nothing is."""
    path = resolve_checkpoint(path)
    parts = [path / name for name in FOLDERS if path.is_dir() and (path / name).is_dir()]
    beside = [file for glob in FILES for file in sorted(path.glob(glob))] if path.is_dir() else []
    own = path.is_file() or any(path.glob("*.safetensors*")) or not [*parts, *beside]
    if own and not (path / PIPELINE).is_file():
        parts = [path, *parts]
    return [_inspect(part) for part in [*parts, *beside]]


def _inspect(path: Path) -> Inspection:
    part = recognise(path)
    look: dict[Part, Callable[[Path], tuple[Any, ...]]] = {
        Part.TRANSFORMER: _transformer, Part.VAE: _vae, Part.TEXT: _text,
    }
    layout, model, sizes, wrong = None, None, {}, ()
    stored = open_weights(path)
    try:
        if part in look:
            stored, layout, model, sizes, wrong = look[part](path)
    except LociError as error:
        wrong = (str(error),)
    counts = Counter(
        str(place.dtype).removeprefix("torch.") for place in stored.places.values()
    )
    return Inspection(
        path=str(path), part=part, layout=layout, model=model, files=len(stored.files),
        bytes=sum(file.stat().st_size for file in stored.files), tensors=len(stored),
        parameters=sum(math.prod(shape) for shape in stored.shapes.values()),
        dtypes=dict(counts.most_common()), sizes=sizes, wrong=(*stored.faults, *wrong),
    )


def _transformer(path: Path) -> tuple[StoredTensors, Layout, str | None, dict[str, Any], Any]:
    stored, layout, config = wan.open_wan(path)
    if config is None:
        return stored, layout, None, {}, ("no config.json beside it: whether all is there, nobody "
                                          "can say",)
    with torch.device("meta"):
        wrong = _wrong(stored, shapes_of(Wan(config)))
    return stored, layout, released_name(config), config.to_dict(), wrong


def _vae(path: Path) -> tuple[StoredTensors, Layout, str | None, dict[str, Any], Any]:
    stored, layout, config = vae.open_vae(path)
    released = {"wan-2.1-vae": vae.wan_vae_2_1(), "wan-2.2-vae": vae.wan_vae_2_2()}
    name = next((name for name, made in released.items() if made == config), None)
    with torch.device("meta"):
        wrong = _wrong(stored, shapes_of(config.build().vae))
    return stored, layout, name, config.to_dict(), wrong


def _text(path: Path) -> tuple[StoredTensors, Layout, str | None, dict[str, Any], Any]:
    stored, layout, sizes = text_encoder.open_umt5(path)
    wanted = text_encoder.wanted_shapes(text_encoder.build(sizes))
    return stored, layout, None, sizes, _wrong(stored, wanted)


def _wrong(stored: StoredTensors, wanted: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    mismatch = stored.mismatch(wanted)
    return (str(mismatch),) if mismatch else ()
