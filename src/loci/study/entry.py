"""Entries: the variants that a study compares, each with its recipe, its weights and a note.

The weights of a variant were trained in the study's folder, or they ship with Loci, or the study
trains them. What they were is noted beside the training, in training/NAME/row.json, so that what
they scored stays valid when they are gone. A study compares the recipe of what lies there with
today's: a run of another recipe is put aside, and never scored.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from loci.errors import LociError
from loci.io.bundled import bundled
from loci.io.checkpoint import digest, load_checkpoint
from loci.io.files import atomic_write, file_digest
from loci.io.json_files import read_json, to_json
from loci.io.user_code import describe_sources, source_files
from loci.models.load import MODELS
from loci.recipes.registry import find_recipe, run_recipe
from loci.training.folder import put_aside, recipe_of
from loci.training.numerics import pick_device
from loci.training.policy import PolicyRun
from loci.training.world import WorldRun


@dataclass(frozen=True)
class Variant:
    """What is asked for: a name, the recipe that trains it, the checkpoint of it that ships."""

    name: str
    recipe: str
    ships: str

    def run(self) -> Any:
        """The recipe's configuration, of a world model or of a policy."""
        run = find_recipe(self.recipe)()
        if not isinstance(run, WorldRun | PolicyRun):
            raise LociError(f"recipe '{self.recipe}' trains neither a world model nor a policy")
        return run


@dataclass(frozen=True, eq=False)
class Entry:
    """A variant with what is known of its weights, which are loaded when they are asked for.

    config: of the model. note: hashes of the `config` and of the `recipe`, digests of the file
    (`checkpoint`), of its tensors (`weights`) and of a world model's `codec`; `parameters`;
    `training`, what the checkpoint says of it; `files` of the user's behind the memory. source:
    where the weights are. load: reads them; None where they are gone. shape: an untrained model of
    the same shape. folder: of the training.
    """

    name: str
    config: Any
    note: Mapping[str, Any]
    source: str = "given"
    load: Callable[[], Any] | None = None
    shape: Callable[[], Any] | None = None
    folder: Path | None = None

    @cached_property
    def model(self) -> Any:
        """The model. Raises LociError where its weights are gone."""
        if self.load is None:
            raise LociError(
                f"the weights of '{self.name}' are gone; delete {self.folder} to train it again"
            )
        return self.load()

    @property
    def record(self) -> dict[str, Any]:
        """What a protocol says of it."""
        note = {name: self.note[name] for name in ("config", "parameters", "files")
                if name in self.note}
        return {"checkpoint_sha256": self.note["checkpoint"], **note}

    @cached_property
    def measured(self) -> Any:
        """A model whose costs are those of this one, trained or not."""
        return self.shape() if self.load is None and self.shape is not None else self.model


def given(name: str, path: Path, kind: str) -> Entry:
    """The entry of a checkpoint, a file of this kind."""
    model, metadata = _load(path, kind), load_checkpoint(path, kind).metadata
    return Entry(name, model.config, _describe(path, model, metadata), load=lambda: model)


def find(variant: Variant, out: Path, from_scratch: bool = False) -> Entry | None:
    """The entry of a variant in the study's folder `out`, or else of the checkpoint that ships
    (unless `from_scratch`); None where it must be trained.

    Raises LociError for a damaged note or checkpoint, for weights that the folder's recipe did not
    make, and where a file of the user's behind them was changed.
    """
    run, folder = variant.run(), out / "training" / variant.name
    made = recipe_of(folder)
    model = folder / "model.safetensors"
    if model.exists() and (made is None or made[1] == _plain(run)):
        return _trained(variant, run, folder, run.hash() if made is None else made[0])
    kept = None if model.exists() else _finished(variant, run, folder, made)
    ships = None if from_scratch else _ships(variant, run)
    if kept is None or ships is None or kept.note["checkpoint"] != ships.note["checkpoint"]:
        return kept or ships
    # The weights that are gone there ship.
    return replace(kept, load=ships.load)


def train(variant: Variant, out: Path) -> Entry:
    """The entry of a variant, trained in out/training/NAME; a run that was killed is continued.

    A run of another recipe that lies there is put aside, in a folder named after it.
    """
    run, folder = variant.run(), out / "training" / variant.name
    made = recipe_of(folder)
    if made is not None and made[1] != _plain(run):
        old = put_aside(folder, made[0][:8])
        warnings.warn(f"{folder.name} has another recipe by now; the old run: {old}", stacklevel=2)
    run_recipe(variant.recipe, folder, resume=True)
    return _trained(variant, run, folder, run.hash())


def model_config(run: Any) -> Any:
    """The configuration of the model that a run trains."""
    return run.world if isinstance(run, WorldRun) else run.model


def _plain(run: Any) -> Any:
    """A configuration as JSON gives it back."""
    return json.loads(run.to_json())


def _note(folder: Path) -> dict[str, Any]:
    """What row.json says; nothing where it is not there."""
    file = folder / "row.json"
    return read_json(file, "delete it") if file.exists() else {}


def _trained(variant: Variant, run: Any, folder: Path, recipe: str) -> Entry:
    """The entry of weights that lie in a folder, made by today's recipe; what they are is noted."""
    path = folder / "model.safetensors"
    settings, _, metadata = load_checkpoint(path, run.kind)
    config = type(model_config(run)).from_dict(settings)
    protocol = metadata["training"].get("protocol", {})
    if protocol.get("config") not in (recipe, run.hash()):
        raise LociError(f"{path} was made by another recipe; delete {folder} to train it again")
    files = source_files(config)
    if protocol.get("files", []) != files.get("files", []):
        raise LociError(
            f"{folder} holds '{variant.name}' trained with {describe_sources(protocol)}, now it "
            f"is {describe_sources(files)}; bring that file back, or delete the folder to train "
            "it again"
        )
    note = _note(folder)
    if note.get("checkpoint") != file_digest(path):
        note = _describe(path, _load(path, run.kind), metadata)
        atomic_write(folder / "row.json", to_json(note))
    note, load = {"recipe": recipe, **note}, partial(_load, path, run.kind)
    return Entry(variant.name, config, note, "trained here", load, folder=folder)


def _finished(variant: Variant, run: Any, folder: Path, made: Any) -> Entry | None:
    """The entry of a training whose weights are gone; None where there is none, or where its
    recipe, or a file of the user's behind it, is another one by now."""
    note, config = _note(folder), model_config(run)
    if not note or made is None or made[1] != _plain(run):
        return None
    note = {"recipe": made[0], **note}
    if note["recipe"] != made[0] or note.get("files") != source_files(config).get("files"):
        return None
    shape = partial(_untrained, run)
    config = run.embodied() if isinstance(run, PolicyRun) else config
    return Entry(variant.name, config, note, "finished here", shape=shape, folder=folder)


def _ships(variant: Variant, run: Any) -> Entry | None:
    """The entry of the checkpoint that ships, if it is of the recipe's model."""
    path = bundled(variant.ships)
    if not path.exists():
        return None
    entry = replace(given(variant.name, path, run.kind), source="shipped")
    return entry if entry.config.hash() == model_config(run).hash() else None


def _load(path: Path, kind: str) -> Any:
    return MODELS[kind].load(path).to(pick_device())


def _untrained(run: Any) -> Any:
    """A model as the run's, with the codec's weights where it needs some."""
    model = model_config(run).build().eval()
    if isinstance(run, WorldRun):
        run.init.fill_codec(model.codec)
    return model.to(pick_device())


def _describe(path: Path, model: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The note of a checkpoint."""
    recipe = metadata["training"].get("protocol", {}).get("config")
    codec = getattr(model, "codec", None)
    return {
        **({} if recipe is None else {"recipe": recipe}), "config": model.config.hash(),
        "checkpoint": file_digest(path), "weights": metadata["digest"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": metadata["training"], **source_files(model.config),
        **({} if codec is None else {"codec": digest(dict(codec.state_dict()))}),
    }
