"""The state of a run on the disk: everything that is needed to go on as if nothing had happened.

One process writes one file. Of several, each writes what it holds, side by side in a folder
(torch.distributed.checkpoint); any number of processes can go on from either.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from loci.errors import LociError
from loci.io.checkpoint import load_checkpoint, save_checkpoint
from loci.io.files import atomic_write
from loci.io.user_code import describe_sources
from loci.training.distributed import ALONE, Processes, lying_as
from loci.training.ema import Ema
from loci.training.folder import RunFolder, same_run

KIND = "training-state"
NOTES = "notes.json"
WHOLE = ".metadata"  # torch writes it last


class TrainingState:
    """Saves and restores the weights, their average, the optimizer and the trainer's notes, in the
    folder."""

    def __init__(
        self, folder: RunFolder[Any], module: nn.Module, ema: Ema, optimizer: torch.optim.Optimizer,
        processes: Processes = ALONE,
    ):
        self.folder, self.module, self.ema, self.optimizer = folder, module, ema, optimizer
        self.processes = processes

    def save(self, **notes: Any) -> None:
        """Write it whole or not at all, with notes as JSON has them, the `step` among them. The log
        reaches the disk first."""
        if self.processes.first:
            self.folder.sync()
        if self.processes.count == 1:
            save_checkpoint(
                self.folder.state_path, KIND, self.folder.settings, self._tensors(), dtype=None,
                **notes,
            )
            self._forget(None)
            return
        place = self.folder.path / f"state-{notes['step']:09d}"
        if self.processes.first:
            shutil.rmtree(place, ignore_errors=True)  # what a kill left of it
            place.mkdir()
            settings = json.loads(self.folder.settings.to_json())
            atomic_write(place / NOTES, json.dumps({"config": settings, **notes}))
        self.processes.wait()
        dcp.save(self._tensors(), checkpoint_id=place)
        self.processes.wait()
        if self.processes.first:
            self._forget(place)

    def restore(self, protocol: Mapping[str, Any]) -> dict[str, Any] | None:
        """Take up the saved state, if there is one: its notes.

        Forgets what the log says beyond it. Raises LociError for a state of another run, or of the
        same run with another version of the user's own files.
        """
        found = sorted(self.folder.path.glob(f"state-*/{WHOLE}"))
        path = found[-1].parent if found else self.folder.state_path
        if not path.exists():
            self._rewind(-1)
            return None
        config, tensors, notes = self._read(path)
        if not same_run(config, json.loads(self.folder.settings.to_json())):
            raise LociError(f"{path} is from other settings; choose another folder")
        start = next(iter(self.folder.lines()), {})
        if start.get("files") != protocol.get("files"):
            raise LociError(
                f"{self.folder.path} holds a run that began with {describe_sources(start)}, now it "
                f"is {describe_sources(protocol)}; bring that file back or choose another folder"
            )
        parts: dict[str, dict[str, Tensor]] = {"module": {}, "ema": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self._restore_module(parts["module"], path)
        if parts["ema"].keys() != self.ema.tensors.keys():
            raise LociError(f"{path} averages other weights; choose another folder")
        self.ema.load(parts["ema"])
        self._restore_optimizer(parts["optimizer"])
        self._rewind(notes["step"])
        return notes

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.tensors.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        return tensors

    def _forget(self, newest: Path | None) -> None:
        """Delete the states that were there before."""
        if newest is not None:
            self.folder.state_path.unlink(missing_ok=True)
        for place in self.folder.path.glob("state-*"):
            if place != newest:
                shutil.rmtree(place)

    def _read(self, path: Path) -> tuple[dict[str, Any], Mapping[str, Tensor], dict[str, Any]]:
        """The settings, the tensors and the notes of a saved state."""
        if path == self.folder.state_path:
            config, tensors, metadata = load_checkpoint(path, KIND)
            return config, tensors, metadata["training"]
        try:
            notes = json.loads((path / NOTES).read_text(encoding="utf-8"))
            sizes = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
            tensors = {name: self._room_for(name, found) for name, found in sizes.items()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that one process reads alone
                dcp.load(tensors, checkpoint_id=path, no_dist=self.processes.count == 1)
        except (OSError, ValueError, KeyError, RuntimeError, dcp.api.CheckpointException) as error:
            raise LociError(f"{path} is damaged ({error}); delete it to start over") from error
        return notes["config"], tensors, notes

    def _room_for(self, name: str, found: Any) -> Tensor:
        """Where a saved tensor is read to: of one that lies among the processes, this one's part.
        """
        part, _, rest = name.partition(".")
        if part == "optimizer":
            like = self._order()[int(rest.partition(".")[0])]
        else:
            like = {"module": self.module.state_dict(), "ema": self.ema.tensors}[part].get(rest)
        if like is None or like.shape != found.size:
            return torch.empty(found.size, dtype=found.properties.dtype)
        return torch.empty_like(like, dtype=found.properties.dtype, requires_grad=False)

    def _order(self) -> list[Tensor]:
        """The parameters in the optimizer's order."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _restore_module(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        own = self.module.state_dict()
        if own.keys() != tensors.keys() or any(own[n].shape != t.shape for n, t in tensors.items()):
            raise LociError(f"{path} holds another model; choose another folder")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(lying_as(tensors[name], value))

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        order = self._order()
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, key = name.partition(".")
            parameter = order[int(index)]
            if tensor.shape == parameter.shape:
                # The fused kernel walks through memory: its averages must lie as the weights do
                # (channels last, for instance), and a file knows only one order.
                like = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)
                tensor = like.copy_(lying_as(tensor, like))
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _rewind(self, step: int) -> None:
        if self.processes.first:
            self.folder.rewind(step)
        self.processes.wait()
