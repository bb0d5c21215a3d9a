"""A policy that begins from trained weights: MemoryWAM's way from a video model to a robot.

The video transformer takes over what a world model, another policy or Wan itself has learnt, and
the action expert begins as its interpolation (`models.action.mirror`). Source: MemoryWAM (arXiv
2606.20562, Implementation details).

    def my_recipe():
        run = tabletop("cover-blocks", POLICY_ROWS["hybrid"])
        return begun(run, "put-back-block-hybrid")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from loci.errors import LociError
from loci.io.bundled import resolve_checkpoint
from loci.io.checkpoint import FORMAT, digest, load_checkpoint, load_into
from loci.models import world, world_action
from loci.models.action import mirror
from loci.models.codecs.base import Codec
from loci.models.world_action import WorldActionModel
from loci.training.policy import PolicyRun, PolicyTask

# Where the world model is in checkpoints of these kinds.
PLACES = {world.KIND: "", world_action.KIND: "world."}


@dataclass(frozen=True, kw_only=True)
class BegunPolicyRun(PolicyRun, name="begun-policy"):
    """`PolicyRun` from trained weights; `begun` makes one of it.

    start: a checkpoint of a world model or a policy (a file, or the name of one that ships), or
    Wan's released weights, a .safetensors file or a folder of them. weights: their digest. codec:
    where the codec's weights are, if `start` has none: a checkpoint of a codec (`codec` ships), or
    a folder with diffusers' Wan VAE.
    """

    start: str
    weights: str
    codec: str | None = None

    def task(self) -> BegunPolicyTask:
        return BegunPolicyTask(self)

    def notes(self) -> dict[str, object]:
        return super().notes() | {"start": self.start, "start_weights": self.weights}


class BegunPolicyTask(PolicyTask):
    """`PolicyTask` that does not begin at random, but for what nobody has learnt yet: the expert's
    encoder, head and state, and what the memory adds where `start` has another one."""

    config: BegunPolicyRun

    def begin(self, model: WorldActionModel) -> None:
        self.draw(model)
        config, found = self.config, trained(self.config.start)
        if digest(found) != config.weights:
            raise LociError(
                f"{config.start} has other weights ({digest(found)}) than this run began from "
                f"({config.weights}); restore them, or begin a new run in a new folder"
            )
        if config.codec is not None:
            read_codec(model.world.codec, config.codec)
            found |= {f"codec.{k}": v for k, v in model.world.codec.state_dict().items()}
        take_over(model.world, found, config.start)
        mirror(model.expert, model.world.dit)


def begun(run: PolicyRun, start: str | Path, codec: str | Path | None = None) -> BegunPolicyRun:
    """The same run from the weights in `start`; see `BegunPolicyRun`. LociError for none there."""
    settings = {field.name: getattr(run, field.name) for field in fields(PolicyRun)}
    return BegunPolicyRun(
        **settings, start=str(start), weights=digest(trained(start)),
        codec=None if codec is None else str(codec),
    )


def trained(start: str | Path) -> dict[str, Tensor]:
    """The tensors of a world model in `start`, by their names there: `dit.` and the rest.

    Raises LociError where there are none, and for a damaged file.
    """
    path = resolve_checkpoint(start)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise LociError(f"no weights at {path}; give a checkpoint, or a folder of .safetensors")
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(files[0], "pt") as file:
            notes = file.metadata() or {}
        if notes.get("format") == FORMAT:
            return _of_checkpoint(files[0], notes.get("kind", ""))
        for each in files:
            with safe_open(each, "pt") as file:
                tensors |= {f"dit.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LociError(f"weights in {path} cannot be read ({error}); fetch them again") from error
    return tensors


def _of_checkpoint(path: Path, kind: str) -> dict[str, Tensor]:
    if kind not in PLACES:
        raise LociError(f"{path} holds a {kind}; begin from a world model or a policy")
    _, tensors, _ = load_checkpoint(path, kind)
    place = PLACES[kind]
    return {name.removeprefix(place): t for name, t in tensors.items() if name.startswith(place)}


def read_codec(codec: Codec, source: str | Path) -> None:
    """Fill a codec from a checkpoint of one, or from a folder with diffusers' Wan VAE."""
    path = resolve_checkpoint(source)
    if path.is_dir():
        from loci.models.codecs.wan import WanCodec

        tensors: Mapping[str, Tensor] = WanCodec.from_folder(path).state_dict()
    else:
        tensors = load_checkpoint(path, "codec").tensors
    load_into(codec, tensors, path)


def take_over(model: world.WorldModel, found: Mapping[str, Tensor], start: str) -> None:
    """Fill a world model with trained weights: all of its transformer and codec, and of what its
    memory adds whatever is there in the same size.

    Raises LociError, with nothing changed, for a tensor that is missing, has another shape, or
    belongs to a deeper transformer. A head that the model does not have is left.
    """
    own = model.state_dict()
    fix = "begin from weights of the same sizes, or give the model theirs"
    taken = {}
    for name, tensor in own.items():
        if name in found and found[name].shape == tensor.shape:
            taken[name] = found[name]
        elif name not in found and name.startswith("codec."):
            raise LociError(f"{start} has no weights of the codec; say where they are: `codec`")
        elif name not in found and name.startswith("dit."):
            raise LociError(f"{start} lacks the tensor '{name}': {fix}")
        elif name.startswith(("codec.", "dit.")):
            there, here = tuple(found[name].shape), tuple(tensor.shape)
            raise LociError(f"{start}: '{name}' is {there}, the model wants {here}: {fix}")
    for name in found:
        if name.startswith("dit.") and not name.startswith("dit.head.") and name not in own:
            raise LociError(f"{start} has a tensor '{name}' that the model has not: {fix}")
    model.load_state_dict(taken, strict=False)
